"""`tito doctor`: every row says what it found and, if that is bad, what to do."""

import sys
from importlib import metadata

from tito import doctor, kernel


def row(name: str) -> doctor.Check:
    return next(check for check in doctor.examine() if check.name == name)


def test_a_healthy_workspace(tito, workspace, monkeypatch):
    monkeypatch.delenv("OPENBLAS_CORETYPE", raising=False)
    tito("setup")
    ran = tito("doctor", "--json")
    assert ran.status == 0
    checks = {check["name"]: check for check in ran.data["checks"]}
    assert not [check for check in checks.values() if not check["ok"]]
    assert checks["Python"]["found"].startswith(
        f"{sys.version_info.major}.{sys.version_info.minor}"
    )
    assert checks["numpy"]["found"] == metadata.version("numpy")
    assert checks["nbgrader"]["found"] == metadata.version("nbgrader")
    assert checks["workspace"]["found"] == str(workspace)
    assert checks["kernel"]["found"] == "tinytorch"
    out = tito("doctor").out
    assert "workspace" in out
    assert "warn" not in out


def test_bad_rows_say_what_to_do(tito, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Haswell")
    monkeypatch.setenv("TINYTORCH_DATA", str(tmp_path / "nowhere"))
    ran = tito("doctor", "--json")
    assert ran.status == 0
    advice = {check["name"]: check["advice"] for check in ran.data["checks"] if not check["ok"]}
    assert advice["workspace"] == "tito setup my-course && cd my-course"
    assert advice["kernel"] == "tito setup, in your workspace"
    assert advice["data"] == "make it, or unset TINYTORCH_DATA"
    assert advice["OPENBLAS_CORETYPE"].startswith("unset it")
    assert all(advice.values())


def test_missing_and_old_packages(course, monkeypatch):
    versions = {"numpy": "1.26.0"}

    def version(name: str) -> str:
        if name == "nbdev":
            raise metadata.PackageNotFoundError(name)
        return versions.get(name, "99.0")

    monkeypatch.setattr(metadata, "version", version)
    assert row("numpy") == doctor.Check("numpy", False, "1.26.0", "pip install 'numpy>=2.0'")
    assert row("nbdev").found == "not installed"
    assert row("nbdev").advice == "pip install 'tinytorch[course]'"
    assert row("tqdm").ok


def test_extras_that_a_student_does_not_need_are_not_asked_for(course):
    names = {check.name for check in doctor.examine()}
    assert "nbclient" in names
    assert "threadpoolctl" not in names


def test_an_old_python(course, monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 9, 1))
    assert row("Python").advice == "install Python 3.11 or newer"


def test_the_kernel_of_another_environment(course, tmp_path, monkeypatch):
    """One whose Python is a link to the same program, as virtual environments have."""
    other = tmp_path / "python"
    other.symlink_to(sys.executable)
    monkeypatch.setattr(kernel, "installed", lambda: [str(other), "-m", "tito.kernel"])
    assert row("kernel") == doctor.Check(
        "kernel", False, f"of {other}", "tito setup, in your workspace"
    )


def test_blas_names_its_version_and_architecture(course):
    from threadpoolctl import threadpool_info

    rows = [check.found for check in doctor.examine() if check.name == "BLAS"]
    blas = [library for library in threadpool_info() if library["user_api"] == "blas"]
    assert len(rows) == len(blas)
    for found, library in zip(rows, blas, strict=True):
        assert library["version"] in found
        assert library.get("architecture", "unknown") in found


def test_without_threadpoolctl(course, monkeypatch):
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert row("BLAS").advice == "pip install 'tinytorch[fast]' to see it"
