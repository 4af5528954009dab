"""`interlock demo`: one real task, from submit to a verified audit trail, told on a screenful."""
