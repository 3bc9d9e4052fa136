"""The verbs `embed` and `rerank`: lines in, lines of JSON out, and sentences for what cannot be done."""

import json
import os
import signal
import sys

import pytest

import minicpm


@pytest.fixture(scope="session")
def embedding(tmp_path_factory):
    from minicpm.testing import tiny_checkpoint

    return tiny_checkpoint("minicpm-embedding", tmp_path_factory.mktemp("models") / "embedding")


@pytest.fixture(scope="session")
def ranking(tmp_path_factory):
    from minicpm.testing import tiny_checkpoint

    return tiny_checkpoint("minicpm-reranker", tmp_path_factory.mktemp("models") / "ranking")


def lines_of(done):
    assert done.code == 0, done.err
    return [json.loads(line) for line in done.out.rstrip("\n").split("\n")]


def test_each_line_becomes_a_vector(program, embedding):
    found = lines_of(program("embed", str(embedding), stdin="hello\n你好\n\nthe\n".encode()))
    wanted = minicpm.load_embedder(embedding).embed(["hello", "你好", "", "the"])
    assert found == [{"index": i, "embedding": vector} for i, vector in enumerate(wanted)]


def test_files_follow_each_other_and_a_hyphen_is_standard_input(program, embedding, tmp_path):
    (tmp_path / "a").write_bytes(b"\xef\xbb\xbfone\r\ntwo\n")
    (tmp_path / "b").write_bytes("last\u2028line".encode())
    done = program(
        "embed", str(embedding), str(tmp_path / "a"), "-", str(tmp_path / "b"), "--with-text", stdin=b"x"
    )
    assert [line["text"] for line in lines_of(done)] == ["one", "two", "x", "last\u2028line"]


@pytest.mark.parametrize(
    ("options", "instruction"),
    [
        (["--query"], None),
        (["--instruction", "Find it."], "Find it."),
        (["--query", "--instruction", "a"], "a"),
    ],
    ids=str,
)
def test_queries_are_marked_as_such(program, embedding, options, instruction):
    (found,) = lines_of(program("embed", str(embedding), *options, "--with-text", stdin=b"hello\n"))
    wanted = minicpm.load_embedder(embedding).embed_queries(["hello"], instruction=instruction)[0]
    assert found == {"index": 0, "text": "hello", "embedding": wanted}


def test_a_dtype_can_be_chosen(program, embedding):
    (found,) = lines_of(program("embed", str(embedding), "--dtype", "bfloat16", stdin=b"hello"))
    wanted = minicpm.load_embedder(embedding, dtype="bfloat16").embed(["hello"])[0]
    assert found["embedding"] == wanted


def test_documents_are_sorted_by_their_score(program, ranking):
    documents = ["hello", "the 1", "你好", "1"]
    found = lines_of(program("rerank", str(ranking), "--query", "the", stdin="\n".join(documents).encode()))
    scores = minicpm.load_reranker(ranking).rank("the", documents)
    best = sorted(range(4), key=lambda i: -scores[i])
    assert found == [{"index": i, "score": scores[i], "text": documents[i]} for i in best]


def test_the_best_alone_and_as_probabilities(program, ranking):
    arguments = ["--query", "the", "--top", "2", "--scale", "probability", "--instruction", "Find it."]
    found = lines_of(program("rerank", str(ranking), *arguments, stdin=b"hello\nthe 1\n1\n"))
    scores = minicpm.load_reranker(ranking).rank(
        "the", ["hello", "the 1", "1"], instruction="Find it.", scale="probability"
    )
    assert [line["score"] for line in found] == sorted(scores, reverse=True)[:2]


def test_equal_documents_keep_their_order(program, ranking):
    found = lines_of(program("rerank", str(ranking), "--query", "the", stdin=b"1\n1\n1\n"))
    assert [line["index"] for line in found] == [0, 1, 2]


VERBS = pytest.mark.parametrize("verb", ["embed", "rerank"])


@pytest.fixture
def call(program, embedding, ranking):
    """call(verb, *arguments, stdin): the verb on its toy model."""

    def run(verb, *arguments, stdin=b""):
        model = [str(embedding)] if verb == "embed" else [str(ranking), "--query", "the"]
        return program(verb, *model, *arguments, stdin=stdin)

    return run


@VERBS
def test_too_long_lines_are_refused_with_the_numbers_and_cut_when_asked_for(verb, call):
    long = b"1" * 2000
    call(verb, stdin=b"x\n" + long).refused("1 of 2", "number 2 has", "--truncate")
    assert len(lines_of(call(verb, "--truncate", stdin=b"x\n" + long))) == 2


@VERBS
@pytest.mark.parametrize("text", [b"", b"\n \n", b"\xef\xbb\xbf"])
def test_no_text_is_refused(verb, text, call, tmp_path):
    call(verb, stdin=text).refused("Standard input is empty")
    (tmp_path / "empty").write_bytes(text)
    call(verb, str(tmp_path / "empty")).refused(f"{tmp_path / 'empty'} is empty")


@VERBS
def test_files_that_cannot_be_read_are_named_all_at_once(verb, call, tmp_path):
    call(verb, str(tmp_path / "no"), str(tmp_path)).refused(str(tmp_path / "no"), "directory", "Cannot read")


@VERBS
def test_bytes_that_are_not_utf8_are_refused(verb, call, tmp_path):
    call(verb, stdin=b"ab\xff").refused("Standard input is not UTF-8", "byte 3", "0xff")
    (tmp_path / "binary").write_bytes(b"\x80")
    call(verb, str(tmp_path / "binary")).refused(str(tmp_path / "binary"), "0x80")


@VERBS
def test_a_model_for_something_else_is_refused_with_what_it_is_for(verb, program, tiny):
    query = ["--query", "x"] if verb == "rerank" else []
    program(verb, str(tiny), *query, stdin=b"x").refused("writes text", "minicpm chat")


def test_chatting_with_an_embedding_model_is_refused_with_what_it_is_for(program, embedding):
    program("chat", str(embedding), stdin=b"hello").refused("turns texts into vectors", "`minicpm embed`")
    program("run", str(embedding), "-p", "hello").refused("minicpm.load_embedder")


@VERBS
def test_wrong_names_of_models_and_dtypes(verb, program, call):
    query = ["--query", "x"] if verb == "rerank" else []
    program(verb, "./nowhere", *query, stdin=b"x").refused("./nowhere")
    call(verb, "--dtype", "int7", stdin=b"x").refused("'int7'")


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--query", " "], ["the query is empty"]),
        (["--query", "x", "--top", "0"], ["--top is 0"]),
        (["--query", "", "--top", "-1"], ["the query is empty", "--top is -1"]),
        (["--query", "x", "--top", "all"], ["'all'", "--top"]),
        (["--query", "x", "--scale", "percent"], ["--scale"]),
        ([], ["--query"]),
    ],
    ids=str,
)
def test_what_cannot_be_asked_for(program, ranking, arguments, parts):
    program("rerank", str(ranking), *arguments, stdin=b"x").refused(*parts)


@VERBS
def test_show_says_what_a_model_is_for(verb, program, embedding, ranking):
    folder = str(embedding if verb == "embed" else ranking)
    shown = program("show", folder)
    assert shown.code == 0, shown.err
    assert f"`minicpm {verb}`" in shown.out
    assert "template" not in shown.out
    document = json.loads(program("show", folder, "--json").out)
    assert document["use"] == verb
    assert [memory["cache_bytes"] for memory in document["memory"]] == [0]


def test_a_template_that_a_model_does_not_have_is_refused(program, embedding):
    program("show", str(embedding), "--template").refused("minicpm embed", "no chat template")


@pytest.mark.skipif(sys.platform == "win32", reason="sends POSIX signals")
@VERBS
def test_ctrl_c_between_batches_is_one_line(verb, call, monkeypatch):
    from minicpm.models.pooled import EmbeddingModel, RerankingModel

    owner, name = (EmbeddingModel, "embeddings") if verb == "embed" else (RerankingModel, "scores")
    monkeypatch.setattr(owner, name, lambda self, batch: signal.raise_signal(signal.SIGINT))
    done = call(verb, stdin=b"x\ny\n")
    assert done.code == 130
    assert len(done.err.splitlines()) == 1
    assert done.err.startswith("Stopped.")
    assert done.out == ""


def test_a_reader_that_goes_away_ends_it_quietly(start, embedding, tmp_path):
    (tmp_path / "lines").write_text("the\n" * 400)
    running = start(
        "embed", str(embedding), str(tmp_path / "lines"), env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    running.process.stdout.close()
    running.process.stdin.close()
    error = running.process.stderr.read()
    assert running.process.wait(60) == 141
    assert error == b""
    running.process.stdin = running.process.stdout = None


def test_long_work_says_how_far_it_is(call, monkeypatch):
    monkeypatch.setattr("minicpm.cli.progress._PLAIN_EVERY_S", -1.0)
    done = call("embed", stdin=b"hello\nthe\n")
    assert done.err == "Embedding: 2 of 2\n"
    assert len(lines_of(done)) == 2


def test_a_terminal_shows_a_bar_and_the_lines_stay_whole(call, monkeypatch):
    monkeypatch.setattr("minicpm.cli.progress._is_terminal", lambda: True)
    assert [line["index"] for line in lines_of(call("embed", stdin=b"hello\nthe\n"))] == [0, 1]
