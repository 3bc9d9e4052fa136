"""The tree stays small, tidy and free of the places it was made in."""

import re

import pytest

MOST_LINES = 400
SUFFIXES = {".py", ".md", ".toml", ".txt", ".cpp", ".h", ".yml", ".yaml", ""}
FOLDERS = ("src", "tests", "tools", "native", "docs", "benchmarks", "examples", "constraints", ".ci")

# Folders of one machine; a user's own paths come from the environment or the command line.
MACHINE_PATH = re.compile(r"(?<![\w.$}~/-])/(?:work|root|home|Users)/")
HOST = re.compile(r"https?://([\w-]+(?:\.[\w-]+)+)")
KNOWN_HOSTS = {
    "127.0.0.1",
    "aclanthology.org",
    "arxiv.org",
    "example.com",
    "example.org",
    "example.invalid",
    "git-lfs.github.com",
    "github.com",
    "huggingface.co",
    "keepachangelog.com",
    "modelscope.cn",
    "openreview.net",
    "semver.org",
    "www.apache.org",
    "www.modelscope.cn",
}


def text_files(root):
    """Files that people wrote, except the licence and what is generated."""
    yield from (path for path in root.iterdir() if path.is_file() and path.suffix in {".md", ".toml"})
    for folder in FOLDERS:
        for path in sorted((root / folder).rglob("*")):
            if path.is_file() and path.suffix in SUFFIXES and not {"assets", "__pycache__"} & set(path.parts):
                yield path


def test_no_source_file_is_too_long_to_read_in_one_go(package):
    lines = {path: len(path.read_bytes().splitlines()) for path in package.rglob("*.py")}
    long = {str(path.relative_to(package)): count for path, count in lines.items() if count > MOST_LINES}
    assert long == {}


@pytest.mark.parametrize("what", ["machine paths", "unknown hosts"])
def test_no_file_names_a_place_it_should_not(what, root):
    found = []
    for path in text_files(root):
        text = path.read_text(encoding="utf-8")
        if what == "machine paths":
            bad = MACHINE_PATH.findall(text)
        else:
            bad = [host for host in HOST.findall(text) if host not in KNOWN_HOSTS]
        found += [f"{path.relative_to(root)}: {name}" for name in bad]
    assert found == [], f"{what}: {found}"


def test_the_typing_marker_and_licence_are_there(root, package):
    assert (package / "py.typed").exists()
    assert "Apache License" in (root / "LICENSE").read_text(encoding="utf-8")


def test_the_newest_entry_of_the_changelog_is_this_version_or_unreleased(root):
    entries = re.findall(r"^## \[(.+?)\]", (root / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    version = re.search(r'"(.+)"', (root / "src/minicpm/_version.py").read_text(encoding="utf-8"))
    assert entries[0] in {"Unreleased", version[1]}
