"""Files that others wrote run nothing here, lead nowhere else, and what is secret stays out of all that is written."""

import io
import json
import logging
import os
import pickle
import shlex
import time
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

import halving
from halving.checkpoints import inside
from halving.checkpoints.store import State, Store
from halving.config.polite import RedactingFilter
from halving.config.trust import typed
from halving.config.yaml_files import redact_files
from halving.errors import UserError
from halving.history import Chosen, Confirmed, Ended, Event, Header, History, Ladder, Resumed
from halving.journal import FILE, encode, read
from halving.redaction import REDACTED, Secrets, is_secret
from halving.report.conclusion import conclusion
from halving.report.html import report_html
from halving.searchers import GridSearcher
from halving.tracking.progress import Progress
from halving.tracking.terminal import Terminal, printable
from halving.trial import Epoch, Finished, Outcome, Restarted, Resume, Start, Verdict

SMALL = ("r_max=1", "data.train_samples=60", "executor.threads=1")
KEY = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    "key",
    [
        *("key", "api_key", "apiKey", "APIKey", "api-key", "apikey", "api_keys", "WANDB_API_KEY", "ssh_private_key"),
        *(
            "token",
            "hf_token",
            "authToken",
            "tokens",
            "access.token",
            "secret",
            "client_secret",
            "AWS_SECRET_ACCESS_KEY",
        ),
        *("password", "passwd", "db.Password", "PASSWORD", "userPassword2", "credential", "db_credentials"),
        *("pwd", "MYSQL_PWD", "PGPASSWORD", "db_pass", "accesskey", "SharedAccessKey", "AccountKey", "csrftoken"),
        *("secretkey", "secretaccesskey", "apitoken", "sessiontoken", "idtoken", "masterkey", "sshkey"),
        *("Authorization", "proxy-authorization", "basic_auth", "bearer", "cookie", "jwt"),
        *("DATABASE_URL", "redis_uri", "SENTRY_DSN", "connectionString"),
    ],
)
def test_secret_names(key: str) -> None:
    assert is_secret(key)


@pytest.mark.parametrize(
    "key",
    [
        *("monkey", "keys", "keyboard", "tokenizer", "turkey", "keynote", "secretary", "token.size", "compass", ""),
        *("cwd", "author", "authority", "forbearer", "passenger", "bypass", "first_pass", "base_url", "auth"),
        *("pad_token", "eos_token", "mask_token", "token_type", "token_embedding"),
    ],
)
def test_other_names(key: str) -> None:
    assert not is_secret(key)


def test_containers_lose_secrets_and_nothing_else() -> None:
    config = {
        "tracker": {"api_key": "abc", "url": "https://x", "auth": {"credentials": {"user": "me", "id": 7}}},
        "model": {"max_tokens": 5, "num_key_heads": 4, "keys": ["a", "b"], "use_token": True, "token": None},
        "db": {"password": 1234, "secret": "", "tokens": ["t1", "t2"]},
        "later": {"api_key": "${oc.env:API_KEY}", "token": "${oc.env:TOKEN,fallback}"},
        "notes": f"my key is {KEY}",
    }
    before = json.dumps(config)
    assert Secrets((KEY,)).redact(config) == {
        "tracker": {
            "api_key": REDACTED,
            "url": "https://x",
            "auth": {"credentials": {"user": REDACTED, "id": 7}},
        },
        "model": {"max_tokens": 5, "num_key_heads": 4, "keys": ["a", "b"], "use_token": True, "token": None},
        "db": {"password": REDACTED, "secret": "", "tokens": [REDACTED, REDACTED]},
        "later": {"api_key": "${oc.env:API_KEY}", "token": REDACTED},
        "notes": f"my key is {REDACTED}",
    }
    assert json.dumps(config) == before


@pytest.mark.parametrize(
    ("override", "clean"),
    [
        ("+tracker.api_key=abc", "+tracker.api_key=<redacted>"),
        ("++a.token='x=y, z'", "++a.token=<redacted>"),
        ("+db={user: me, password: 12, hosts: [a, b]}", "+db={user: me, password: <redacted>, hosts: [a, b]}"),
        ('+db={"p": {api_key: "a}b"}}', '+db={"p": {api_key: <redacted>}}'),
        ("+a.api_key=${oc.env:API_KEY}", "+a.api_key=${oc.env:API_KEY}"),
        ("+model.max_tokens=5", "+model.max_tokens=5"),
        ("~tracker.api_key", "~tracker.api_key"),
        ("model=lenet", "model=lenet"),
        ("'+space.x=[1,2]'", "'+space.x=[1,2]'"),
    ],
)
def test_overrides_lose_secrets_and_nothing_else(override: str, clean: str) -> None:
    assert Secrets().redact_override(override) == clean
    assert Secrets().redact([override]) == [clean]


def test_a_known_secret_is_found_wherever_it_is_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_TOKEN", KEY)
    monkeypatch.setenv("OTHER_KEY", "1")
    secrets = Secrets.of({"model": {"password": "correct horse", "key": "val_error"}}, ["+a={api_key: 'from shell'}"])
    assert {KEY, "correct horse", "from shell"} <= set(secrets.values)
    # A short one, or what some key is called, would take words out of every text.
    assert "1" not in secrets.values and "val_error" not in secrets.values
    text = f"cannot log in with {KEY} or correct horse or from shell"
    assert secrets.redact(text) == f"cannot log in with {REDACTED} or {REDACTED} or {REDACTED}"


TEXTS = {
    "postgres://me:hunter2@db.host:5432/x": "postgres://me:<redacted>@db.host:5432/x",
    "see redis://:a@b?c@h/0, https://x:y@z": "see redis://:<redacted>@h/0, https://x:<redacted>@z",
    "{'Authorization': 'Bearer abc'}": "{'Authorization': <redacted>}",
    "> Authorization: token abc\n> Host: x": "> Authorization: token <redacted>\n> Host: x",
    "> x-api-key: abc123": "> x-api-key: <redacted>",
    "with bearer abc.DEF-123": "with bearer <redacted>",
    "with Basic dXNlcjpwYXNz": "with Basic <redacted>",
    "https://h/x?token=abc&y=1&sig=d%2Fe": "https://h/x?token=<redacted>&y=1&sig=<redacted>",
    "eta=3,tracker.api_key=abc,x=2": "eta=3,tracker.api_key=<redacted>,x=2",
    "host=h;Password=12;db=x": "host=h;Password=<redacted>;db=x",
    "python x.py --api-key abc --lr 0.1": "python x.py --api-key <redacted> --lr 0.1",
    "Client(token='a b', lr=0.1)": "Client(token=<redacted>, lr=0.1)",
    'got {"password": "a\\"b", "x": 1}': 'got {"password": <redacted>, "x": 1}',
    "ran in TOKEN=abc": "ran in TOKEN=<redacted>",
    **{
        f"with {token}, which fails": f"with {REDACTED}, which fails"
        for token in (
            *(
                f"{prefix}{KEY}"
                for prefix in ("ghp_", "github_pat_", "glpat-", "hf_", "sk-", "sk-proj-", "wandb_v1_", "nvapi-", "r8_")
            ),
            *("AKIAIOSFODNN7EXAMPLE", "xoxb-1234-abcdef", f"AIza{KEY}", "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.a-b_c"),
            "-----BEGIN RSA PRIVATE KEY-----\nabc\n-----END RSA PRIVATE KEY-----",
        )
    },
}


@pytest.mark.parametrize("text", TEXTS)
def test_secrets_are_known_by_their_shape(text: str) -> None:
    assert Secrets().redact(text) == TEXTS[text]
    assert Secrets().redact(TEXTS[text]) == TEXTS[text]


def test_what_has_no_secrets_shape_stays(repo: Path) -> None:
    files = [path for folder in ("conf", "src") for path in (repo / folder).rglob("*.[yp][ay]*")]
    texts = [path.read_text() for path in files if path.suffix in (".yaml", ".py") and path.name != "redaction.py"]
    assert len(texts) > 200
    texts += [
        *("ssh://git@github.com/a/b", "git@github.com:a/b", "https://me@host/x", "http://host:8080/x@y", "s3://b/key"),
        *(
            "postgres://me:${oc.env:PW}@h",
            "me@x.org",
            "cwd=/home",
            "in PWD=/home/x",
            "use max_tokens=5",
            "a task-sk-learn",
        ),
        *("model.token: must be a text", "login(token=self.token)", "forward(x, tokens=tokens)", "hf_hub_download"),
        *("basic ResNetModern", "bearer certificates", "the author's compass, a passenger, monkey=1", "--max-tokens 5"),
        *("-----BEGIN CERTIFICATE-----", "a.eos_token: </s>", "Authorization: denied", f"commit {KEY}"),
    ]
    for text in texts:
        assert Secrets().redact(text) == text


@pytest.mark.parametrize(
    "part",
    ["x=", "token=", "f(token=a, ", "--token ", "'a ", '\\"', "a://${", "a://b:", "x-", "eyJaaaaaa.", "-----BEGIN "],
)
def test_a_text_is_looked_through_in_time_that_grows_as_it_does(part: str) -> None:
    began = time.process_time()
    Secrets((KEY,)).redact("of " + part * (200_000 // len(part)))
    assert time.process_time() - began < 5


@given(st.lists(st.text("ab\\'\n ", min_size=1, max_size=9), min_size=1, max_size=4), st.data())
def test_no_part_of_a_known_secret_is_left(values: list[str], data: st.DataObject) -> None:
    """Whatever the order of the values, and wherever one holds, begins or ends another."""
    words = data.draw(st.lists(st.sampled_from([*values, "-"]), max_size=6))
    text = "".join(words)
    expected = list(text)
    for value in values:
        for start in range(len(text)):
            if text.startswith(value, start):
                expected[start : start + len(value)] = [""] * len(value)
    for order in (values, values[::-1], data.draw(st.permutations(values))):
        assert Secrets(tuple(order)).redact(text).replace(REDACTED, "") == "".join(expected)


def test_a_known_secret_is_found_however_it_is_quoted(monkeypatch: pytest.MonkeyPatch) -> None:
    value = "it's \"ä/\\\n and more"
    monkeypatch.setenv("A_SECRET", value)
    monkeypatch.setenv("A_URL", "redis://:in-a-url@h")
    monkeypatch.setenv("DATABASE_URL", "redis://:in-another@h")
    monkeypatch.setenv("PWD", "/home/somebody")
    secrets = Secrets.of({"a": "ftp://x:in-a-config@h"}, ["+b=[ftp://x:in-an-override@h]"])
    quoted = (value, repr(value)[1:-1], json.dumps(value)[1:-1], quote(value, safe=""), quote(value), " and more")
    for text in (*quoted, "in-a-url", "in-another", "in-a-config", "in-an-override"):
        assert secrets.redact(f"with {text} it failed") == f"with {REDACTED} it failed"
    assert secrets.redact("in /home/somebody") == "in /home/somebody"


def test_no_event_is_written_down_with_a_secret() -> None:
    texts: list[Event] = [
        Header("s", "sha", "random", 0, 1, settings={"notes": KEY}),
        Resumed(settings={"notes": KEY}),
        Restarted(0, 0, KEY),
        Finished(Outcome(0, 1, 0.5), cause=KEY),
        Confirmed(1, 0.5, cause=KEY),
        Chosen(None, failure=KEY),
        Ended(None, command=KEY, config={"a": KEY}, failure=KEY),
    ]
    for event in texts:
        line = encode(Secrets((KEY,)).redact_event(event), 0, 0.0).decode()
        assert KEY not in line and line.count(REDACTED) == encode(event, 0, 0.0).decode().count(KEY)


def test_yaml_files_and_logs_lose_secrets(tmp_path: Path) -> None:
    (tmp_path / "overrides.yaml").write_text(f"- +a.api_key={KEY}\n- eta=3\n")
    (tmp_path / "config.yaml").write_text(
        f"api_key: {KEY}\nrevision: '695e0514'\nnotes: \\${{nope}}\nepochs: ${{r_max}}\n"
    )
    (tmp_path / "plain.yaml").write_text("# as it was\nname: {a: 1}\n")
    secrets = Secrets.of({}, [f"+a.api_key={KEY}"])
    (tmp_path / "link.yaml").symlink_to(tmp_path / "linked")
    (tmp_path / "linked").write_text(f"api_key: {KEY}\n")
    os.mkfifo(tmp_path / "pipe.yaml")
    redact_files(secrets, *tmp_path.glob("*.yaml"))
    assert KEY in (tmp_path / "linked").read_text()
    assert yaml.safe_load((tmp_path / "overrides.yaml").read_text()) == [f"+a.api_key={REDACTED}", "eta=3"]
    assert OmegaConf.to_container(OmegaConf.load(tmp_path / "config.yaml")) == {
        "api_key": REDACTED,
        "revision": "695e0514",
        "notes": "\\${nope}",
        "epochs": "${r_max}",
    }
    assert (tmp_path / "plain.yaml").read_text() == "# as it was\nname: {a: 1}\n"

    said = io.StringIO()
    handler = logging.StreamHandler(said)
    handler.addFilter(RedactingFilter(secrets))
    log = logging.getLogger("halving.test_security")
    log.propagate = False
    log.addHandler(handler)
    try:
        raise ValueError(f"refused {KEY}")
    except ValueError:
        log.exception("with %s\x1b[2J", KEY)
    assert KEY not in said.getvalue() and "\x1b" not in said.getvalue()
    assert (
        said.getvalue().startswith(f"with {REDACTED}\\x1b[2J\nTraceback") and "ValueError: refused" in said.getvalue()
    )


def test_only_what_is_typed_counts_as_typed() -> None:
    assert typed(["model=x", "trusted_packages=[mine, other.part]"]) == ("mine", "other.part")
    assert typed(["++trusted_packages=[mine]"]) == ("mine",)
    assert typed(["xtrusted_packages=[mine]", "-cn", "best"]) == ()
    with pytest.raises(UserError, match=r"trusted_packages=\[my_package\]"):
        typed(["trusted_packages=mine"])


class Bomb:
    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.system, (f"touch {shlex.quote(str(self.canary))}",))


@pytest.mark.parametrize("kind", ["pickle", "torch", "inside"])
def test_a_malicious_checkpoint_raises_and_runs_nothing(tmp_path: Path, kind: str) -> None:
    path, canary = tmp_path / "checkpoints/0/1.pt", tmp_path / "canary"
    path.parent.mkdir(parents=True)
    match kind:
        case "pickle":
            path.write_bytes(pickle.dumps(Bomb(canary)))
        case "torch":
            torch.save(Bomb(canary), path)
        case _:
            Store(tmp_path).save(0, 1, "c", State({"model": {}}))
            content = torch.load(path, weights_only=True)
            content["state"]["model"] = Bomb(canary)
            torch.save(content, path)
    with pytest.raises(UserError, match=r"1\.pt is damaged"):
        Store(tmp_path).load(0, 1, "c")
    assert not canary.exists()
    torch.load(path, weights_only=False) if kind != "pickle" else pickle.loads(path.read_bytes())
    assert canary.exists(), "the bomb itself works"


def journal(run_dir: Path, *events: Event) -> Path:
    run_dir.mkdir(exist_ok=True)
    (run_dir / FILE).write_bytes(b"".join(encode(event, seq, float(seq)) for seq, event in enumerate(events)))
    return run_dir


HEADER = Header("s", "sha", "random", 0, 1)


@pytest.mark.parametrize(
    "word",
    [
        "+hydra.callbacks.evil={_target_: os.makedirs, _args_: [evil]}",
        "hydra.run.dir=/elsewhere",
        "++ hydra/launcher=evil",
        "+experiment@hydra.callbacks=evil",
        "--multirun",
    ],
)
def test_a_journal_cannot_tell_hydra_what_nobody_typed(fork: Callable, tmp_path: Path, word: str) -> None:
    """Resuming repeats the overrides that a study was begun with, and where its config files lie."""
    source = ["-cp", "/somewhere", "-cn", "best", "--config-dir", "/x", "hydra.searchpath=[/x]", "hydra.mode=RUN"]
    overrides = ["eta=3", "+model.hydra=1", "data@other=digits", "~space"]
    good = journal(
        tmp_path / "run", Header("s", "sha", "random", 0, 1, settings={"overrides": overrides, "source": source})
    )
    assert len(read(good)) == 1
    for settings in ({"overrides": [*overrides, word]}, {"source": [*source, word]}):
        run_dir = journal(tmp_path / "run", Header("s", "sha", "random", 0, 1, settings=settings))
        with pytest.raises(UserError, match="record 0 has the override"):
            read(run_dir)
    result = fork(f"resume={run_dir}", cwd=tmp_path)
    assert result.returncode == 1 and "which no study records" in result.stderr and result.stderr.count("\n") == 1
    assert {path.name for path in tmp_path.iterdir()} == {"run"}


@pytest.mark.parametrize("settings", ["text", {"overrides": 5}, {"source": "-cp"}])
def test_settings_that_are_none_are_refused_in_words(tmp_path: Path, settings: Any) -> None:
    with pytest.raises(UserError, match="record 0 has settings that no study records"):
        read(journal(tmp_path / "run", Header("s", "sha", "random", 0, 1, settings=settings)))


def test_a_study_has_no_config_files_in_itself(fork: Callable, tmp_path: Path) -> None:
    """They would come with it, and could name anything to be called."""
    (tmp_path / "run").mkdir()
    for source in (["-cp", f"{tmp_path}/run/x"], ["--config-dir", f"{tmp_path}/y/../run"]):
        settings = {"overrides": ["eta=3"], "source": source}
        run_dir = journal(tmp_path / "run", Header("s", "sha", "random", 0, 1, settings=settings))
        result = fork(f"resume={run_dir}", cwd=tmp_path)
        assert result.returncode == 1 and result.stderr.startswith("error: resume: the study's config files would lie")
    assert {path.name for path in tmp_path.rglob("*")} == {"run", FILE}


@pytest.mark.parametrize("name", ["../../x.pt", "checkpoints/../../x.pt", "/etc/x.pt", "a\\..\\x.pt", "a\0b", ""])
def test_a_journal_cannot_name_a_file_elsewhere(tmp_path: Path, name: str) -> None:
    run_dir = journal(tmp_path / "run", HEADER, Start(0, {}, 1), Finished(Outcome(0, 1, 0.5), checkpoint=name))
    with pytest.raises(UserError, match=r"record 2.*checkpoint"):
        read(run_dir)


@pytest.mark.parametrize("trial", ["../1", "1", -1, 1.0, True, None])
def test_a_journal_cannot_call_a_trial_by_anything_but_a_number(tmp_path: Path, trial: Any) -> None:
    for event in (
        Start(trial, {}, 1),
        Resume(trial, 1, 3),
        Epoch(trial, 1, {}),
        Finished(Outcome(trial, 1, 0.5)),
        Verdict(trial, "paused"),
    ):
        with pytest.raises(UserError, match=r"record 1.*trial"):
            read(journal(tmp_path / "run", HEADER, event))


def test_a_link_does_not_lead_out_of_the_run_directory(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    (run_dir / "checkpoints" / "0").mkdir(parents=True)
    (run_dir / "checkpoints" / "0" / "1.pt").touch()
    assert inside(run_dir, "checkpoints/0/1.pt") == run_dir / "checkpoints" / "0" / "1.pt"
    (tmp_path / "secret.pt").touch()
    (run_dir / "checkpoints" / "0" / "3.pt").symlink_to(tmp_path / "secret.pt")
    (run_dir / "checkpoints" / "1").symlink_to(tmp_path)
    for name in ("checkpoints/0/3.pt", "checkpoints/1/secret.pt"):
        with pytest.raises(UserError, match="outside"):
            inside(run_dir, name)


CONFIG: dict[str, Any] = {name: {} for name in ("model", "data", "optimizer", "lr_schedule", "fidelity")}
CONFIG |= {"r_max": 1, "epochs": 1, "seed": 0, "trial": 0}


def test_best_model_builds_only_what_is_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from halving.training.recipe import config_hash

    canary = tmp_path / "canary"
    target = {"_target_": "os.system", "_args_": [f"touch {canary}"]}
    run_dir = tmp_path / "run"
    for model, allowed in ((target, None), ({"_target_": "collections.Counter"}, "collections")):
        config = CONFIG | {"model": model}
        Store(run_dir).save(0, 1, config_hash(config), State({"model": {}}))
        finished = Finished(Outcome(0, 1, 0.5), checkpoint="checkpoints/0/1.pt")
        journal(run_dir, HEADER, Start(0, {}, 1), finished, Ended(0, config=config))
        study = halving.load(run_dir)
        with pytest.raises(UserError, match=r"model\._target_: .* lies outside the trusted packages"):
            study.best_model()
        if allowed:
            for way in ("argument", "environment"):
                if way == "environment":
                    monkeypatch.setenv("HALVING_TRUSTED_PACKAGES", f"other, {allowed}")
                with pytest.raises(AttributeError, match="load_state_dict"):
                    study.best_model(trusted=(allowed,)) if way == "argument" else study.best_model()
    assert not canary.exists()


EVIL = '"><script>alert(1)</script><img src=x onerror=alert(2)>'
ESCAPES = "\x1b[2J\x1b]0;title\x07 [red]red[/red] \x9b31m\x00"


def evil_study() -> list[Event]:
    text = EVIL + ESCAPES
    settings = {
        "config": {"model": {"name": text, text: 1}},
        "overrides": [f"a={text}"],
        "notes": text,
        "environment": {"host": text},
        "run_dir": "/tmp/x",
    }
    header = Header(
        name=text,
        scheduler=text,
        searcher=text,
        seed=0,
        r_max=3,
        unit=text,
        metric=text,
        full_cost=3.0,
        planned_cost=4.0,
        dimensions=(text, "lr"),
        plan=(Ladder((1, 3), (2, 1)),),
        settings=settings,
    )
    return [
        header,
        Start(0, {text: text, "lr": 0.1}, 1, reason=text),
        Epoch(0, 1, {text: 0.5, "val_error": 0.5}),
        Finished(Outcome(0, 1, 0.5)),
        Verdict(0, "paused", text),
        Start(1, {text: "x", "lr": 0.2}, 1),
        Finished(Outcome(1, 1, float("nan"), failed=True), cause=f"Traceback\n{text}"),
        Verdict(1, "failed", text),
        Resume(0, 1, 3, 1, text),
        Finished(Outcome(0, 3, 0.25)),
        Verdict(0, "completed", text),
        Ended(0, {"test_error": 0.2}, f"python train.py {text}", {"model": {text: text}}),
    ]


class Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.scripts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        if self.tags and self.lasttag == "script":
            self.scripts.append(data)


def test_the_report_shows_what_is_evil_as_text() -> None:
    history = History()
    for second, event in enumerate(evil_study()):
        history.apply(event, float(second))
    text = report_html(history)
    page = Page()
    page.feed(text)
    assert page.tags.count("script") == 1 and "img" not in page.tags
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert "alert(1)" not in "".join(page.scripts[:1])
    assert text.count("&lt;script&gt;alert(1)") > 10, "it is shown, as text"


@pytest.mark.parametrize("terminal", [True, False])
def test_the_terminal_obeys_nobody_but_us(terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    events, second = evil_study(), 0
    monkeypatch.setattr("time.monotonic", lambda: 100.0 * second)  # so late is every event that it is shown
    text = io.StringIO()
    console = Terminal(file=text, width=250, force_terminal=terminal, force_interactive=terminal, color_system=None)
    progress, history = Progress(console), History()
    for second, event in enumerate(events):
        history.apply(event, float(second))
        progress.record(event, history)
    progress.close(history)
    console.print(conclusion(history, Path("run")), soft_wrap=True, highlight=False, markup=False)
    said = text.getvalue()
    assert "\x1b[2J" not in said and "\x1b]0;" not in said
    assert not {"\x07", "\x9b", "\x00"} & set(said)
    assert "\\x1b[2J" in said and "[red]red[/red]" in said


def test_printable_keeps_what_is_text() -> None:
    assert printable("grün\tund\n🙂 [x]") == "grün\tund\n🙂 [x]"
    assert printable("a\x1b[31m\r\u202eb") == "a\\x1b[31m\\r\\u202eb"


def test_an_untrusted_target_is_refused_before_anything_runs(fork: Callable, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    result = fork(*SMALL, "tracker=none", "model._target_=os.system", f"+model._args_=['touch {canary}']")
    assert result.returncode == 1 and not canary.exists()
    assert result.stderr.startswith("error: model._target_: os.system lies outside") and result.stderr.count("\n") == 1


def test_a_file_cannot_declare_itself_trusted(fork: Callable, tmp_path: Path) -> None:
    """Not by the key itself, and not by the ways that a config file has into Hydra's own settings."""
    run_dir = tmp_path / "run"
    assert fork(*SMALL, "tracker=none", f"hydra.run.dir={run_dir}").returncode == 0
    best = yaml.safe_load((run_dir / "best.yaml").read_text())
    best["model"] = {"_target_": "os.system", "_args_": [f"touch {tmp_path / 'canary'}"]}
    best["trusted_packages"] = ["os"]
    (run_dir / "best.yaml").write_text(yaml.safe_dump(best))
    result = fork("-cp", str(run_dir), "-cn", "best", f"hydra.run.dir={tmp_path / 'again'}")
    assert result.returncode == 1 and not (tmp_path / "canary").exists()
    assert result.stderr.startswith("error: model._target_: os.system lies outside")


def test_what_a_study_did_not_write_beside_its_winner_is_not_read(fork: Callable, tmp_path: Path) -> None:
    """Hydra's own settings build what they name before anybody has looked: so do other files, and other defaults."""
    run_dir, canary = tmp_path / "run", tmp_path / "canary"
    assert fork(*SMALL, "tracker=none", f"hydra.run.dir={run_dir}").returncode == 0
    whole = (run_dir / "best.yaml").read_text()
    evil = {"callbacks": {"evil": {"_target_": "os.makedirs", "name": str(canary)}}}
    kept = yaml.safe_load(whole)
    for name, text, said in (
        ("best.yaml", yaml.safe_dump(kept | {"hydra": evil}), "sets more than a study writes"),
        ("best.yaml", yaml.safe_dump(kept | {"defaults": [*kept["defaults"], "evil"]}), "sets more than"),
        ("best.yaml", yaml.safe_dump(kept | {"defaults": [{"x@hydra": "evil"}, *kept["defaults"]]}), "sets more than"),
        ("best.yaml", "# @package hydra\n" + whole, "sets more than"),
        ("best.yaml", yaml.safe_dump(kept | {"defaults": 5}), "sets more than"),
        ("base.yaml", yaml.safe_dump({"hydra": evil}), "would come before"),
        ("space/none.yaml", "# @package hydra\n" + yaml.safe_dump(evil), "would come before"),
        ("hydra/job_logging/halving.yml", yaml.safe_dump(evil), "would come before"),
    ):
        (run_dir / name).parent.mkdir(parents=True, exist_ok=True)
        (run_dir / name).write_text(text)
        result = fork("-cp", str(run_dir), "-cn", "best", f"hydra.run.dir={tmp_path / 'again'}")
        assert result.returncode == 1 and result.stderr.startswith(f"error: {run_dir / name} {said}"), result.stderr
        assert not canary.exists() and not (tmp_path / "again").exists()
        (run_dir / name).unlink() if name != "best.yaml" else (run_dir / name).write_text(whole)
    assert fork("-cp", str(run_dir), "-cn", "best", "r_max=1", f"hydra.run.dir={tmp_path / 'again'}").returncode == 0


WORD = "3retnuh"[::-1]  # as the difference to the commit, which a journal has, would show it
SECRETIVE = f"""
import os

def error(configuration, resource):
    api_key, headers, pwd, url = (configuration[name] for name in ("api_key", "headers", "pwd", "url"))
    assert api_key == "{WORD} {WORD}" and pwd == "{WORD}" and url == "redis://me:{WORD}@h/0"
    if configuration["x"] > 0.5 or configuration["y"]:
        raise ValueError(f"no {{url}} by {{api_key}}: --password {{pwd}}, {{headers}}, {{os.environ['PGPASSWORD']}}")
    return configuration["x"]

class Told:
    def resume(self, history):
        self.record(history.header, history)

    def record(self, event, history):
        with open("told.txt", "a") as file:
            print(event, dict(history.header.settings), file=file)

    def close(self, history): ...
"""


def test_secrets_do_not_reach_what_a_study_leaves(fork: Callable, tmp_path: Path) -> None:
    """A function's configuration may hold some: it gets the values, and no file and no terminal does."""
    (tmp_path / "secretive.py").write_text(SECRETIVE)
    env = {
        "PYTHONPATH": os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "PGPASSWORD": f"{WORD} of the database",
        "DATABASE_URL": f"postgres://me:{WORD}@h/db",
        "WANDB_API_KEY": f"{WORD}{KEY}"[:40],
    }
    own = f"api_key: '{WORD} {WORD}', pwd: {WORD}, url: 'redis://me:{WORD}@h/0', headers: {{Authorization: {WORD}}}"
    words = [
        *("fidelity=function", "fidelity.function=secretive.error", "space=none", "scheduler=fifo", "r_max=1"),
        f"+fidelity.configuration={{x: 0.1, y: 0, {own}}}",
        "+space.fidelity.configuration.x={_target_: scipy.stats.uniform}",
        "trusted_packages=[secretive]",
    ]
    trackers = ("tracker=[wandb,csv,tensorboard]", "+tracker.told._target_=secretive.Told")
    notes = f"notes='as ftp://me:{WORD}@h, token={WORD}, ${{oc.env:WANDB_API_KEY}}'"
    calls = {
        (*words, notes, *trackers, "budget.evaluations=3", "hydra.run.dir=run"): 0,
        ("resume=run", *words, f"{notes[:-1]} again'", "budget.evaluations=4"): 0,
        (
            "-m",
            *words,
            "fidelity.configuration.y=0,1",
            "budget.evaluations=3",
            "tracker=none",
            "hydra.sweep.dir=all",
        ): 1,
        (f"tracker.api_key=[{WORD}",): 1,
        (f"+model.api_key={WORD}", "tracker=none"): 1,
    }
    said = ""
    for call, status in calls.items():
        result = fork(*call, cwd=tmp_path, **env)
        assert result.returncode == status, result.stderr
        said += result.stdout + result.stderr
    for text in (
        "the override 'tracker.api_key=<redacted>'",
        "no redis://me:<redacted>@h/0 by <redacted>: --password <",
    ):
        assert text in said
    files = [path for path in tmp_path.rglob("*") if path.is_file() and "secretive" not in path.name]
    names = {path.name for path in files}
    assert names > {FILE, "best.yaml", "summary.json", "report.html", "train.log", "overrides.yaml", "multirun.yaml"}
    assert names > {"jobs.csv", "failure.txt", "comparison.html", "told.txt"} and any(
        "tfevents" in name for name in names
    )
    assert any(path.suffix == ".wandb" for path in files)
    for path in files:
        assert WORD.encode() not in path.read_bytes(), path
    assert WORD not in said


def test_nor_what_a_study_of_a_function_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not by name in its notes, by shape in what it raises, nor by value, which the environment holds."""
    monkeypatch.setenv("DATABASE_PASSWORD", f"{WORD}{KEY}")

    def error(configuration: dict[str, Any], resource: int) -> float:
        if configuration["sort_key"] == "by error":
            raise ValueError(f"no ftp://me:{WORD}@h by {os.environ['DATABASE_PASSWORD']}")
        return 1.0

    class Told:
        def record(self, event: Event, history: History) -> None:
            with (tmp_path / "told.txt").open("a") as file:
                print(event, history.header, file=file)

        def close(self, history: History) -> None: ...

    space = {"sort_key": ["by error", "by time"]}
    for notes in (f"token={WORD}", f"password: '{WORD}'"):  # the second time it goes on, whatever was taken out
        options: dict[str, Any] = {"searcher": GridSearcher, "r_max": 1, "max_trials": 2, "trackers": [Told()]}
        study = halving.tune(error, space, halving.FIFO, notes=notes, run_dir=tmp_path, resume=True, **options)
    assert study.best.configuration == {"sort_key": "by time"}
    assert f"ValueError: no ftp://me:{REDACTED}@h by {REDACTED}" in (tmp_path / FILE).read_text()
    left = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    assert {FILE, "summary.json", "report.html", "told.txt"} <= left.keys()
    assert not [name for name, content in left.items() if WORD.encode() in content or KEY.encode() in content]
