"""Collect every notebook under nbs/ as one pytest test, run by nbdev's own runner (`eval:
false` and `tst_flags` hold).
"""

import re

import pytest
from nbdev.config import get_config
from nbdev.test import test_nb as run_notebook


class NotebookError(Exception):
    "A cell of the notebook failed; nbdev has printed its traceback"


class NotebookFile(pytest.File):
    def collect(self):
        yield NotebookItem.from_parent(self, name=self.path.stem)


class NotebookItem(pytest.Item):
    def runtest(self):
        config = get_config(self.path.parent)
        passed, _ = run_notebook(
            self.path,
            skip_flags=config.tst_flags.split(),
            force_flags=self.config.getoption("--nb-flags").split(),
            basepath=config.config_path,
            cell_timeout=config.cell_timeout or None,
        )
        if not passed:
            raise NotebookError(f"{self.path.name} failed: the traceback is above")

    def repr_failure(self, excinfo):
        return (
            str(excinfo.value)
            if excinfo.errisinstance(NotebookError)
            else super().repr_failure(excinfo)
        )

    def reportinfo(self):
        return self.path, None, f"notebook: {self.name}"


def pytest_addoption(parser):
    parser.addoption("--nb-flags", default="", help='nbdev flags whose cells run too, e.g. "slow"')


def pytest_collect_file(file_path, parent):
    if file_path.suffix != ".ipynb":
        return None
    parts = file_path.relative_to(get_config(file_path.parent).nbs_path).parts
    hidden = any(re.match(r"[_.]", part) for part in parts)
    return (
        None
        if hidden or parts[0] == "templates"
        else NotebookFile.from_parent(parent, path=file_path)
    )
