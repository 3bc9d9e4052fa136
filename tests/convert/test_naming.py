"""Files are named after the model, whatever its name holds."""

from dataclasses import replace

import pytest

from minicpm.checkpoint import open_checkpoint
from minicpm.convert.gguf_export import to_gguf
from minicpm.convert.naming import fit, name_of
from minicpm.testing import tiny_checkpoint


@pytest.mark.parametrize(
    ("name", "made"),
    [
        ("MiniCPM4-0.5B", "MiniCPM4-0.5B"),
        ("a b/c", "a-b-c"),
        ("..", "model"),
        ("", "model"),
        ("x\n\0y", "x--y"),
        ("模" * 500, "模" * 50),
    ],
)
def test_a_name_is_made_fit_for_a_file(name, made):
    assert fit(name) == made


def test_a_model_is_called_as_its_folder_or_as_its_gguf_file_says(tmp_path):
    source = open_checkpoint(
        tiny_checkpoint("minicpm-1b", tmp_path / "My Model", _name_or_path="/else/where")
    )
    assert name_of(source) == "My-Model"
    made = open_checkpoint(to_gguf(source, tmp_path / "made").path)
    assert name_of(made) == "My-Model"
    foreign = replace(made, raw_config=made.raw_config | {"_name_or_path": "../../etc/passwd"})
    assert name_of(foreign) == "passwd"
