"""Print what a development environment needs, as a requirements file: all of pyproject.toml."""

import sys
import tomllib
from pathlib import Path

if __name__ == "__main__":
    pyproject = tomllib.loads(Path(sys.argv[1]).read_text())
    project = pyproject["project"]
    groups = [pyproject["build-system"]["requires"], project["dependencies"]]
    groups += project["optional-dependencies"].values()
    print(*(requirement for group in groups for requirement in group), sep="\n")
