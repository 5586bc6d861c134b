"""SGA on a laptop in three minutes: real photos, H-SD, a baseline and an SGA run, and one page that shows them."""
