"""The strategy families of a job: one file a family, a frozen spec a member."""
