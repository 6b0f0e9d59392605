"""`python -m backend_architecture` where it is installed, and `python FOLDER` with the folder of a clone."""

if __package__:
    from backend_architecture.search import console
else:
    from search import console

console()
