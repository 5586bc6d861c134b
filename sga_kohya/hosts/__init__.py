"""The trainers that SGA goes into. Only a folder of this one may know anything of a host's inside."""
