"""`./run fit BUNDLE`."""

from fit.options import Settings
from models import command_line

if __name__ == "__main__":
    command_line.run(Settings)
