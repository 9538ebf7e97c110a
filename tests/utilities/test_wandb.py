"""Weights & Biases: what is sent, what is kept secret, and what happens when it is away."""

import json
import os
import socket
import subprocess
import sys
import textwrap
import threading
import types
from argparse import Namespace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from utilities import wandb_run
from utilities.logger import Logger
from utilities.wandb_run import NoRun, WandbRun

KEY = "0123456789abcdef" * 2 + "fedcba98"
ROOT = Path(__file__).parents[2]


class FakeWandb(types.ModuleType):
    """The calls of the client that are used; `refused` are the modes in which it fails."""

    def __init__(self, mode="online", refused=()):
        super().__init__("wandb")
        self.mode, self.refused = mode, refused
        self.inits, self.points, self.finished, self.torn = [], [], [], 0
        self.lost = False
        self.Settings = lambda **given: given
        self.Histogram = lambda np_histogram: ("histogram", *map(list, np_histogram))
        self.Image = lambda path: ("image", path)

    def setup(self):
        return Namespace(settings=Namespace(mode=self.mode))

    def init(self, **given):
        self.inits.append(given)
        if given["mode"] in self.refused:
            raise RuntimeError(f"no {given['mode']}\nsecond line")
        return Namespace(log=self.log, finish=self.finish, dir=f"{given['dir']}/wandb/run/files",
                         url="https://wandb.example/P/runs/1")

    def teardown(self):
        self.torn += 1

    def log(self, values, step=None):
        if self.lost:
            self.lost = False
            raise ConnectionError("gone")
        self.points.append((step, values))

    def finish(self, exit_code):
        self.finished.append(exit_code)


@pytest.fixture
def fake(monkeypatch):
    def install(**given):
        module = FakeWandb(**given)
        monkeypatch.setitem(sys.modules, "wandb", module)
        return module

    return install


def options(**given):
    return Namespace(**{"log_online": True, "project": "P", "group": "G", "savename": "G_s0",
                        "wandb_key": KEY, "wandb_mode": "online", "wandb_entity": "E",
                        "plots": "none"} | given)


def test_without_log_online_the_client_is_not_even_imported(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)  # an import would fail
    logger = Logger.from_opt(options(log_online=False), tmp_path, {})
    logger.start()
    logger.log("Train", "loss", {"loss": 1})
    logger.end_epoch(0)
    logger.close()
    assert isinstance(logger.online, NoRun) and not hasattr(wandb_run, "wandb")


def test_project_group_entity_name_and_config_are_the_options(tmp_path, fake):
    wandb = fake()
    run = WandbRun.from_opt(options(), tmp_path, {"loss": "margin"})
    run.start()
    (given,) = wandb.inits
    assert (given["project"], given["group"], given["name"], given["entity"]) == (
        "P", "G", "G_s0", "E")
    assert given["config"] == {"loss": "margin"} and given["mode"] == "online"
    assert given["id"] == run.id and given["resume"] == "allow"
    assert given["settings"]["init_timeout"] <= 15


def test_a_resumed_run_keeps_its_id(tmp_path, fake):
    wandb = fake()
    logger = Logger.from_opt(options(), tmp_path, {})
    logger.start()
    resumed = Logger.from_opt(options(), tmp_path, {})
    resumed.load_state_dict(logger.state_dict())
    resumed.start()
    assert wandb.inits[0]["id"] == wandb.inits[1]["id"] == logger.online.id


def test_the_key_goes_to_the_client_and_off_the_command_line(tmp_path, fake, monkeypatch):
    wandb = fake()
    monkeypatch.setattr(sys, "argv", ["diva_main.py", f"--wandb_key={KEY}", "--bs", "8"])
    WandbRun.from_opt(options(), tmp_path, {}).start()
    assert wandb.inits[0]["settings"]["api_key"] == KEY
    assert sys.argv == ["diva_main.py", "--wandb_key=***", "--bs", "8"]
    assert KEY not in "".join(os.environ.values())


def test_without_a_key_the_client_finds_its_own(tmp_path, fake):
    wandb = fake()
    WandbRun.from_opt(options(wandb_key=None), tmp_path, {}).start()
    assert "api_key" not in wandb.inits[0]["settings"]


def test_an_array_becomes_a_histogram_of_a_bar_per_entry(tmp_path, fake):
    wandb = fake()
    run = WandbRun.from_opt(options(), tmp_path, {})
    run.start()
    run.log({"spectrum": np.array([3.0, 1.0]), "long": np.arange(1000.0)}, 4)
    ((step, point),) = wandb.points
    assert step == 4 and point["spectrum"] == ("histogram", [3.0, 1.0], [0.0, 1.0, 2.0])
    _, bars, edges = point["long"]
    assert len(bars) == 512 and len(edges) == 513 and edges[-1] == 1000


def test_a_picture_comes_with_the_next_point_only(tmp_path, fake):
    wandb = fake()
    run = WandbRun.from_opt(options(), tmp_path, {})
    run.start()
    run.picture("Sample retrievals", tmp_path / "a.png")
    run.log({"loss": 1.0}, 0)
    run.log({"loss": 2.0}, 1)
    assert wandb.points == [
        (0, {"loss": 1.0, "Sample retrievals": ("image", str(tmp_path / "a.png"))}),
        (1, {"loss": 2.0})]


def test_a_picture_after_the_last_point_is_sent_at_the_end(tmp_path, fake):
    wandb = fake()
    run = WandbRun.from_opt(options(), tmp_path, {})
    run.start()
    run.log({"loss": 1.0}, 0)
    run.picture("Sample retrievals", "a.png")
    run.finish()
    assert wandb.points[1] == (None, {"Sample retrievals": ("image", "a.png")})


def test_a_refused_run_goes_on_offline_and_says_so_once(tmp_path, fake, capsys):
    wandb = fake(refused=("online",))
    run = WandbRun.from_opt(options(), tmp_path, {})
    run.start()
    run.log({"loss": 1.0}, 0)
    assert [given["mode"] for given in wandb.inits] == ["online", "offline"]
    assert wandb.inits[0]["id"] == wandb.inits[1]["id"] and wandb.torn == 1
    assert wandb.points == [(0, {"loss": 1.0})]
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and "no online" in said[0] and "wandb sync" in said[0]


def test_training_goes_on_where_even_offline_runs_are_refused(tmp_path, fake, capsys):
    fake(refused=("online", "offline"))
    run = WandbRun.from_opt(options(), tmp_path, {})
    run.start()
    run.log({"loss": 1.0}, 0)
    run.finish()
    assert "nothing is logged" in capsys.readouterr().err


def test_a_client_that_is_not_installed_does_not_stop_training(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "wandb", None)
    run = WandbRun.from_opt(options(), tmp_path, {})
    run.start()
    run.log({"loss": 1.0}, 0)
    run.picture("Sample retrievals", "a.png")
    run.finish()
    told, = capsys.readouterr().err.splitlines()
    assert told.count("wandb") == 1 and "nothing is logged" in told


def test_an_invalid_variable_of_the_client_is_named(tmp_path, fake, monkeypatch, capsys):
    with pytest.raises(ValueError) as invalid:
        from wandb import Settings
        Settings(console="loud")

    def setup():
        raise invalid.value

    fake(refused=("offline",)).setup = setup
    monkeypatch.setenv("WANDB_CONSOLE", "loud")
    WandbRun.from_opt(options(), tmp_path, {}).start()
    assert "(WANDB_CONSOLE: 'loud' in the environment; Input should be 'auto', " in (
        capsys.readouterr().err)


@pytest.mark.parametrize(("client", "asked", "by"), [
    ("offline", "online", "by the client's own settings (WANDB_MODE)"),
    ("dryrun", "online", "by the client's own settings (WANDB_MODE)"),
    ("online", "offline", "by --wandb_mode")])
def test_a_run_that_is_to_be_offline_is_told_how_to_upload_it(tmp_path, fake, capsys, client, asked,
                                                              by):
    fake(mode=client)
    WandbRun.from_opt(options(wandb_mode=asked), tmp_path, {}).start()
    assert capsys.readouterr().err == (
        f"W&B: offline, {by}; training goes on, upload what is logged from here on with "
        f"`wandb sync {tmp_path}/wandb/run`\n")


def test_bytes_that_are_no_utf_8_reach_the_client_escaped(tmp_path, fake, monkeypatch, capsys):
    """It accepts them in the config alone, and no folder with such a name."""
    wandb = fake()
    monkeypatch.setattr(sys, "argv", ["diva_main.py", "--savename", "caf\udce9"])
    config = {"savename": "caf\udce9"}
    WandbRun.from_opt(options(savename="caf\udce9"), tmp_path, config).start()
    (given,) = wandb.inits
    assert (given["name"], given["config"], sys.argv[2]) == (r"caf\udce9", config, r"caf\udce9")
    WandbRun.from_opt(options(), tmp_path / "caf\udce9", {}).start()
    assert len(wandb.inits) == 1
    assert capsys.readouterr().err == (
        "W&B: cannot log online (the client takes no path that is not UTF-8, here "
        rf"'{tmp_path}/caf\udce9'); training goes on, nothing is logged there from here on" + "\n")


def test_a_point_is_kept_offline_when_the_connection_is_lost(tmp_path, fake, capsys):
    wandb = fake()
    run = WandbRun.from_opt(options(), tmp_path, {})
    run.start()
    run.log({"loss": 1.0}, 0)
    wandb.lost = True
    run.log({"loss": 2.0}, 1)
    run.log({"loss": 3.0}, 2)
    run.finish()
    assert wandb.points == [(0, {"loss": 1.0}), (1, {"loss": 2.0}), (2, {"loss": 3.0})]
    assert wandb.inits[1]["mode"] == "offline" and wandb.inits[1]["id"] == wandb.inits[0]["id"]
    assert len(capsys.readouterr().err.strip().splitlines()) == 1 and wandb.finished == [0]


@pytest.mark.parametrize(("client", "asked", "got"), [
    ("online", "offline", "offline"), ("offline", "online", "offline"),
    ("dryrun", "online", "offline"), ("disabled", "online", "disabled"),
    ("disabled", "offline", "disabled")])
def test_client_and_flag_can_only_restrict_the_mode(tmp_path, fake, client, asked, got):
    wandb = fake(mode=client)
    WandbRun.from_opt(options(wandb_mode=asked), tmp_path, {}).start()
    assert [given["mode"] for given in wandb.inits] == [got]


def test_a_run_that_does_not_log_online_accepts_every_call():
    run = NoRun()
    run.start()
    run.log({"a": 1}, 0)
    run.picture("a", "b")
    run.finish()


# The real client, each time in a process of its own.

TRAINING = """
    import sys, time
    from argparse import Namespace
    from utilities import wandb_run
    from utilities.logger import Logger

    folder, key, scenario = sys.argv[1], sys.argv[3], sys.argv[4]
    if scenario != "in earnest":
        wandb_run.INIT_SECONDS, wandb_run.FINISH_SECONDS = 3, 3
    opt = Namespace(log_online=True, project="P", group="G", savename="G_s0", wandb_key=key,
                    wandb_mode="online", wandb_entity=None, plots="none")
    logger = Logger.from_opt(opt, folder, {"loss": "margin"})
    begun = time.time()
    logger.start()
    print("started after", time.time() - begun, flush=True)
    for epoch in range(3):
        logger.log("Train", "loss", {"loss": epoch})
        logger.log("Test", "d_e_recall", {"e_recall@1": 0.5})
        logger.end_epoch(epoch)
        if scenario == "lost" and epoch == 0:
            time.sleep(1)
            print("lose", flush=True)
            sys.stdin.readline()
    logger.close()
    print("finished", flush=True)
"""
HELD_BY = {"RunResumeStatus": {"model": {"id": "m", "name": "P", "bucket": None,
                                         "entity": {"id": "e", "name": "E"}}},
           "Viewer": {"viewer": {"id": "u", "entity": "E", "username": "u", "email": "e",
                                 "flags": "{}", "teams": {"edges": []}}}}


class Server(ThreadingHTTPServer):
    """Enough of W&B's server for the client to believe in it; remembers what it was sent."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answer)
        self.received = []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def handle_error(self, request, client_address):
        pass

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"


class Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        self.server.received.append(body.decode(errors="replace"))
        data = {}
        if self.path.endswith("/graphql"):
            asked = json.loads(body)
            variables = asked.get("variables") or {}
            data = next((known for name, known in HELD_BY.items() if name in asked["query"]), {})
            if "UpsertBucket" in asked["query"]:
                project = {"id": "p", "name": "P", "entity": {"id": "e", "name": "E"}}
                data = {"upsertBucket": {"inserted": True, "bucket": {
                    "id": "x", "name": variables.get("name"), "config": "{}", "description": None,
                    "displayName": variables.get("displayName"), "sweepName": None,
                    "historyLineCount": 0, "project": project}}}
            if "CreateRunFiles" in asked["query"]:
                data = {"createRunFiles": {"runID": "x", "uploadHeaders": [], "files": [
                    {"name": name, "uploadUrl": f"{self.server.url}/{name}"}
                    for name in variables["files"]]}}
            data = {"data": data}
        answer = json.dumps(data).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_PUT = do_GET = do_POST

    def log_message(self, *_):
        pass


def train(folder, url, scenario, when_lost=None):
    """Runs TRAINING with the key on its command line; returns its output."""
    environment = os.environ | {"WANDB_BASE_URL": url, "WANDB_MODE": "online",
                                "HOME": str(folder), "PYTHONPATH": str(ROOT)}
    for name in ("WANDB_API_KEY", "http_proxy", "HTTP_PROXY"):
        environment.pop(name, None)
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(TRAINING), folder, "--wandb_key", KEY, scenario],
        env=environment, cwd=folder, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT)
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line == "lose\n":
            when_lost(process)
            process.stdin.write("\n")
            process.stdin.flush()
    assert process.wait() == 0, "".join(lines)
    return "".join(lines)


def files_with(folder, text):
    return [path for path in Path(folder).rglob("*")
            if path.is_file() and text.encode() in path.read_bytes()]


def stored_runs(folder):
    return [path for path in Path(folder).rglob("*.wandb") if path.stat().st_size > 100]


def test_the_real_client_sends_the_points_and_keeps_the_key(tmp_path):
    server = Server()
    try:
        output = train(tmp_path, server.url, "online")
    finally:
        server.shutdown()
        server.server_close()
    sent = "".join(server.received)
    assert "finished" in output and "wandb sync" not in output
    assert "Train: loss" in sent and "Test: d_e_recall: e_recall@1" in sent
    assert KEY not in sent and KEY not in output
    assert not files_with(tmp_path, KEY)


@pytest.mark.slow
def test_an_unreachable_host_costs_seconds_and_keeps_the_points(tmp_path):
    output = train(tmp_path, "http://127.0.0.1:9", "online")
    waited = float(output.partition("started after")[2].split()[0])
    assert waited < 3 + 8, output  # INIT_SECONDS is 3 here
    assert output.count("W&B: ") == 1 and "cannot log online" in output
    assert files_with(tmp_path, "e_recall@1") and not files_with(tmp_path, KEY)


@pytest.mark.slow
def test_a_host_that_never_answers_costs_twenty_seconds_at_most(tmp_path):
    """At the start, where the client itself waits 100 s; the user is told in one line."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        output = train(tmp_path, f"http://127.0.0.1:{silent.getsockname()[1]}", "in earnest")
    waited = float(output.partition("started after")[2].split()[0])
    assert waited < 20, output
    told, *rest = output.splitlines()
    assert told.startswith("W&B: cannot log online") and len(rest) == 2, output
    assert files_with(tmp_path, "e_recall@1") and not files_with(tmp_path, KEY)


@pytest.mark.slow
def test_the_real_client_keeps_everything_when_the_connection_is_lost(tmp_path):
    server = Server()

    def lose(_process):
        server.shutdown()
        server.server_close()

    output = train(tmp_path, server.url, "lost", lose)
    assert "finished" in output and output.count("W&B: lost") == 1 and "wandb sync" in output
    assert stored_runs(tmp_path) and not files_with(tmp_path, KEY)
