"""Clips: video files in the folder of photos, cut in space, in time, or in both, through fixed boxes."""
