"""The configuration: what a file may hold, how it is read and checked, and the job it describes."""
