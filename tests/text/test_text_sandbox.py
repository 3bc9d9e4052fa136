"""Promises of the template sandbox: a hostile template costs a little time and ends in a TemplateError."""

import subprocess
import sys
import time

import pytest

from minicpm.errors import TemplateError
from minicpm.text.sandbox import Limits, Sandbox

HOSTILE = {
    "a long string": "{{ 'a' * 500000000 }}",
    "a wide number": "{{ '%500000000d' % 1 }}",
    "nested loops": "{% for i in range(99999) %}{% for j in range(300) %}{% endfor %}{% endfor %}",
    "padding": "{{ 'a'.center(300000000) }}",
    "an attribute walk": "{{ ''.__class__.__mro__ }}",
    "a huge range": "{{ range(10**9) | list }}",
    "endless recursion": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "much output": "{% for i in range(99999) %}{{ 'a' * 1000 }}{% endfor %}",
    "a huge power": "{{ 9 ** 9999999 }}",
    "a huge list": "{{ [1] * 1000000000 }}",
    "doubling": "{% set n = namespace(x='a') %}{% for i in range(60) %}{% set n.x = n.x + n.x %}{% endfor %}",
    "a changed argument": "{{ messages.append(1) }}",
    "an undefined name": "{{ a.b.c }}",
    "a refusal": "{{ raise_exception('roles must alternate') }}",
    "no template": "{% if",
}


@pytest.fixture(scope="module")
def sandbox():
    box = Sandbox(Limits(seconds=0.1, characters=1 << 20, memory=64 << 20))
    box.render("warm", {})
    yield box
    box.close()


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_template_is_stopped(name, sandbox):
    with pytest.raises(TemplateError) as caught:
        sandbox.render(HOSTILE[name], {"messages": []})
    assert "chat template" in str(caught.value)


def test_after_a_hostile_template_the_next_one_renders(sandbox):
    with pytest.raises(TemplateError, match=r"longer than 0\.1 seconds"):
        sandbox.render(HOSTILE["nested loops"], {})
    assert sandbox.render("{{ 1 + 1 }}", {}) == "2"


def test_the_reason_of_a_refusal_reaches_the_caller(sandbox):
    with pytest.raises(TemplateError, match="roles must alternate"):
        sandbox.render(HOSTILE["a refusal"], {})
    with pytest.raises(TemplateError, match="1,000 characters"):
        sandbox.render("{{ 'a' * 2000 }}", {}, characters=1000)


def test_one_process_serves_many_renderings(sandbox):
    sandbox.render("a", {})
    process = sandbox._process
    for number in range(20):
        assert sandbox.render("{{ n }}", {"n": number}) == str(number)
    assert sandbox._process is process


def test_a_killed_worker_is_replaced(sandbox):
    sandbox.render("a", {})
    sandbox._process.kill()
    sandbox._process.wait()
    assert sandbox.render("b", {}) == "b"


def test_a_walk_by_format_string_finds_nothing(sandbox):
    assert "class" not in sandbox.render("{{ '{0.__class__}'.format('') }}", {})


def test_published_template_features_work(sandbox):
    source = (
        "{% for m in messages %}{% if loop.index0 == 1 %}{% continue %}{% endif %}"
        "{% generation %}{{ m.content }}{% endgeneration %}\n{% endfor %}{{ t | tojson }}"
    )
    context = {"messages": [{"content": c} for c in "abc"], "t": {"ü": "<b>&'"}}
    assert sandbox.render(source, context) == 'ac{"ü": "<b>&\'"}'


def test_the_worker_sees_nothing_of_its_parent(sandbox, monkeypatch):
    monkeypatch.setenv("SECRET_TOKEN", "x")
    box = Sandbox()
    try:
        box.render("a", {})
        environment = f"/proc/{box._process.pid}/environ"
        with open(environment, "rb") as file:
            assert b"SECRET_TOKEN" not in file.read()
    except FileNotFoundError:
        pytest.skip("this system has no /proc to look into")
    finally:
        box.close()


def test_the_worker_ends_with_its_parent():
    code = (
        "from minicpm.text.sandbox import Sandbox; import os\n"
        "box = Sandbox(); box.render('a', {}); print(box._process.pid, flush=True); os._exit(1)"
    )
    path = ":".join(entry for entry in sys.path if entry)
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={"PYTHONPATH": path}, check=False
    )
    pid = int(ran.stdout)
    for _ in range(100):
        with open(f"/proc/{pid}/stat") if _alive(pid) else open("/dev/null") as file:
            state = file.read().rpartition(")")[2].split()[:1]
        if not state or state == ["Z"]:
            return
        time.sleep(0.02)
    pytest.fail(f"worker {pid} still runs")


def _alive(pid):
    try:
        with open(f"/proc/{pid}/stat"):
            return True
    except FileNotFoundError:
        return False


def test_a_big_conversation_renders_within_the_default_limits():
    box = Sandbox()
    messages = [{"role": "user", "content": "hello " * 10}] * 65_000
    source = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    try:
        assert len(box.render(source, {"messages": messages}, characters=16 << 20)) > 65_000 * 60
    finally:
        box.close()
