"""A bench for hostile submissions: graders that stay open, in a course folder of their own."""

import shutil

import pytest
from attack import Bench

from tito.classroom import conversation, sandbox
from tito.classroom.folder import Classroom
from tito.course import find_course


@pytest.fixture(scope="session")
def bench(classroom_template, tmp_path_factory):
    """Graders of module 02 with small limits."""
    root = shutil.copytree(classroom_template, tmp_path_factory.mktemp("hostile") / "class")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(conversation, "GRACE", 6.0)  # more than a fork waits for its test
        bench = Bench(Classroom(root, find_course()))
        yield bench
        bench.close()


@pytest.fixture(params=["sandbox", "limits"])
def isolated(request) -> bool:
    """Behind bubblewrap, and with limits alone: forging must fail in both."""
    if request.param == "sandbox" and (why_not := sandbox.problem()):
        pytest.skip(f"no sandbox: {why_not}")
    return request.param == "sandbox"
