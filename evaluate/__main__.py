"""`./run evaluate --data FOLDER`."""

from evaluate.options import Settings
from models import command_line

if __name__ == "__main__":
    command_line.run(Settings)
