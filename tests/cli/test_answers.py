"""One answer on standard output: the text alone, or one JSON document; the rest goes to standard error."""

import io
import json
import sys

import pytest

from minicpm.cli.once import print_answer
from minicpm.testing import ScriptedChat
from minicpm.text.events import End, ReasoningDelta, TextDelta, ToolCall, Usage

GREEDY = ("--temperature", "0", "--max-tokens", "8")


def printed(events, capsys, **options):
    result = print_answer(ScriptedChat([events]).chat([]), **options)
    captured = capsys.readouterr()
    return result, captured.out, captured.err


def test_only_the_answer_goes_to_standard_output(capsys):
    events = [ReasoningDelta("hm"), TextDelta("4"), TextDelta("2")]
    result, out, err = printed(events, capsys)
    assert (out, err) == ("42\n", "")
    assert (result.text, result.reasoning, result.end.reason) == ("42", "hm", "stop")


def test_thinking_and_speed_go_to_standard_error_when_wanted(capsys):
    _, out, err = printed([ReasoningDelta("h"), ReasoningDelta("m"), TextDelta("42\n")], capsys, verbose=True)
    assert out == "42\n"
    assert err == "hm\nprompt 0 tokens · answer 0 tokens\n"


def test_a_call_is_printed_as_it_was_written_and_kept(capsys):
    call = ToolCall("1", "f", '{"a": 1}', "f(a=1)")
    result, out, _ = printed([call], capsys)
    assert out == "f(a=1)\n"
    assert result.calls == [call]


def test_an_answer_that_is_printed_otherwise_is_silent(capsys):
    result, out, err = printed("text", capsys, silent=True)
    assert (result.text, out, err) == ("text", "", "")


def test_an_answer_lost_to_thinking_is_explained(capsys):
    _, out, err = printed([ReasoningDelta("hm"), End("length", Usage())], capsys)
    assert out == ""
    assert "--max-tokens" in err


def test_a_terminal_is_not_steered_and_a_pipe_gets_every_byte(monkeypatch, capsys):
    _, out, _ = printed("a\x1b[2Jb", capsys)
    assert out == "a\x1b[2Jb\n"

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    print_answer(ScriptedChat(["a\x1b[2Jb"]).chat([]))
    assert "\x1b" not in terminal.getvalue()


def test_a_piped_message_is_one_message(program, tiny):
    from minicpm import load

    expected = load(tiny).chat("two\nlines", temperature=0, max_tokens=8).text
    done = program("chat", str(tiny), *GREEDY, stdin=b"\xef\xbb\xbftwo\nlines\r\n")
    assert done.code == 0
    assert done.out.rstrip("\n") == expected.rstrip("\n")
    assert done.err == ""
    assert program("run", str(tiny), *GREEDY, "-p", "two\nlines").out == done.out


def test_a_command_in_a_pipe_is_text(program, tiny):
    assert program("chat", str(tiny), *GREEDY, stdin=b"/exit").out != ""


def test_verbose_tells_speed_on_standard_error_only(program, tiny):
    quiet = program("chat", str(tiny), *GREEDY, stdin=b"hello")
    loud = program("chat", str(tiny), *GREEDY, "--verbose", stdin=b"hello")
    assert loud.out == quiet.out
    assert "answer 8 tokens" in loud.err


def test_the_json_document_is_the_last_line_and_whole(program, tiny):
    done = program("run", str(tiny), *GREEDY, "-p", "hello", "--json")
    document = json.loads(done.out.splitlines()[-1])
    assert done.out.count("\n") == 1
    text = program("run", str(tiny), *GREEDY, "-p", "hello").out
    assert document["text"].rstrip("\n") == text.rstrip("\n")
    assert document["usage"]["completion_tokens"] == 8
    assert document["finish_reason"] == "length"
    assert set(document) == {
        "model", "text", "reasoning", "tool_calls", "finish_reason", "usage", "timings", "notes",
    }  # fmt: skip
    assert document["timings"]["prefill_s"] > 0


def test_raw_continues_the_text_without_a_template(program, tiny):
    from minicpm import load

    expected = load(tiny).generate("Once", temperature=0, max_tokens=8)[0]
    document = json.loads(program("run", str(tiny), *GREEDY, "--raw", "--json", stdin=b"Once").out)
    assert document["text"] == expected.text
    assert document["usage"]["prompt_tokens"] == expected.usage.prompt_tokens


def test_a_seed_repeats_an_answer(program, tiny):
    drawn = ["run", str(tiny), "-p", "hello", "--temperature", "2", "--max-tokens", "12", "--json", "--seed"]
    texts = [json.loads(program(*drawn, seed).out)["text"] for seed in ("1", "1", "2")]
    assert texts[0] == texts[1] != texts[2]


def test_thinking_and_the_system_message_reach_the_prompt(program, tmp_path):
    from minicpm.testing import tiny_checkpoint

    folder = str(tiny_checkpoint("minicpm4.1-8b", tmp_path / "thinker"))

    def tokens(*options):
        done = program("run", folder, "-p", "hello", "--max-tokens", "1", "--json", *options)
        return json.loads(done.out)["usage"]["prompt_tokens"]

    assert tokens("--thinking", "off") > tokens("--thinking", "on")
    assert tokens("--system", "Be kind.") > tokens()


def test_truncate_cuts_only_whole_turns_and_says_so(program, tiny):
    long = "word " * 100
    done = program(
        "chat", str(tiny), "--context", "128", "--truncate", "--max-tokens", "4", stdin=long.encode()
    )
    assert done.code == 2, "the last message itself is never cut"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "fp16"])
def test_dtypes_by_any_of_their_names(dtype, program, tiny):
    assert program("run", str(tiny), *GREEDY, "-p", "hello", "--dtype", dtype).code == 0
