"""--adapter on the command line."""

from minicpm.testing import tiny_adapter

OPTIONS = ("-p", "hello", "--temperature", "0", "--max-tokens", "8")


def test_answers_are_made_with_the_adapter(program, tiny, tmp_path):
    adapter = tiny_adapter(tmp_path / "adapter", tiny, lora_alpha=100)
    plain, adapted = (
        program("run", str(tiny), *OPTIONS),
        program("run", str(tiny), *OPTIONS, "--adapter", str(adapter)),
    )
    raw, adapted_raw = (
        program("run", str(tiny), "--raw", *OPTIONS, *extra) for extra in ((), ("--adapter", str(adapter)))
    )
    assert {outcome.code for outcome in (plain, adapted, raw, adapted_raw)} == {0}
    assert plain.out != adapted.out
    assert raw.out != adapted_raw.out


def test_the_chat_takes_one_too(program, tiny, tmp_path):
    adapter = str(tiny_adapter(tmp_path / "adapter", tiny, lora_alpha=100))
    options = OPTIONS[2:]
    plain = program("chat", str(tiny), *options, stdin=b"hello")
    assert plain.out != program("chat", str(tiny), *options, "--adapter", adapter, stdin=b"hello").out


def test_a_folder_that_is_none_is_refused(program, tiny, tmp_path):
    program("run", str(tiny), *OPTIONS, "--adapter", str(tmp_path)).refused("adapter_config.json")
