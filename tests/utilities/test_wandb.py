"""Weights & Biases: what is kept and sent, what is secret, and what happens when it is away.

All with the real client: offline its records are read back, online it talks to a stand-in for the
server.
"""

import base64
import functools
import itertools
import json
import math
import os
import socket
import subprocess
import sys
import textwrap
import threading
from argparse import Namespace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests import runs
from tests.wandb_records import parts, restart
from utilities import wandb_run
from utilities.logger import Logger
from utilities.wandb_run import NoRun, WandbRun

KEY = "0123456789abcdef" * 2 + "fedcba98"
ROOT = Path(__file__).parents[2]
RECALL = "Test: d-0.5_e_recall: e_recall@1"      # a dot is no level of a nested key


@pytest.fixture
def client(monkeypatch, tmp_path):
    """client(NAME=value, ...) starts the client anew, offline unless WANDB_MODE is given."""
    monkeypatch.setattr(sys, "argv", ["diva_main.py"])
    monkeypatch.setattr(wandb_run, "INIT_SECONDS", 3)
    monkeypatch.setattr(wandb_run, "FINISH_SECONDS", 3)
    monkeypatch.setenv("HOME", str(tmp_path))
    start = functools.partial(restart, monkeypatch)
    start()
    yield start
    parts(tmp_path)     # ends the client


def options(**given):
    return Namespace(**{"log_online": True, "project": "P", "group": "G", "savename": "G_s0",
                        "wandb_key": KEY, "wandb_mode": "online", "wandb_entity": "E",
                        "plots": "none", "n_epochs": 9, "dataset": "cub200", "arch": "resnet50",
                        "loss": "margin", "diva_features": ["discriminative", "shared"]} | given)


def log(logger, epoch, recall, loss=None):
    """An epoch of a training whose checkpoint was saved."""
    logger.log("Train", "epochs", {"epochs": epoch})
    logger.log("Train", "loss", {"loss": 1 / (epoch + 1) if loss is None else loss}, best="min")
    logger.log("Test", "d-0.5_e_recall", {"e_recall@1": recall}, best="max")
    logger.log("Test", "d-0.5_dists", {"dists@intra": recall})
    logger.end_epoch(epoch)
    logger.publish()


def run_of(folder, **given):
    run = WandbRun.from_opt(options(**given), folder, {})
    run.start()
    return run


def test_without_log_online_the_client_is_not_even_imported(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)  # an import would fail
    logger = Logger.from_opt(options(log_online=False), tmp_path, {})
    logger.start()
    log(logger, 0, 0.5)
    logger.close()
    assert isinstance(logger.online, NoRun) and not hasattr(wandb_run, "wandb")


def test_a_run_that_does_not_log_online_accepts_every_call():
    run = NoRun()
    run.start()
    run.log({"a": 1}, 0, {})
    run.picture("a", "b")
    run.finish()


def test_project_group_entity_name_tags_and_config_are_the_options(tmp_path, client):
    run = WandbRun.from_opt(options(), tmp_path, {"loss": "margin"})
    run.start()
    run.finish()
    part, = parts(tmp_path)
    kept = part.run
    assert (kept.project, kept.run_group, kept.display_name, kept.entity) == ("P", "G", "G_s0", "E")
    assert list(kept.tags) == ["cub200", "resnet50", "margin", "discriminative", "shared"]
    assert kept.run_id == run.id and part.config["loss"] == "margin" and part.finished == 0


def test_names_and_tags_that_wandb_would_refuse_are_cut(tmp_path, client):
    run_of(tmp_path, savename="s" * 200, dataset="d" * 65, arch="shared").finish()
    part, = parts(tmp_path)
    assert part.run.display_name == "s" * 128
    assert list(part.run.tags) == ["d" * 64, "shared", "margin", "discriminative"]


def test_the_step_is_the_epoch_and_points_are_kept_at_once(tmp_path, client):
    logger = Logger.from_opt(options(), tmp_path, {})
    logger.start()
    for epoch in range(3):
        log(logger, epoch, epoch / 4)
    assert logger.online.run.step == 3      # nothing waits for the next epoch
    logger.close()
    part, = parts(tmp_path)
    assert part.column("_step") == part.column("Train: epochs") == [0, 1, 2]
    assert part.column(RECALL) == [0, 0.25, 0.5]


def test_the_summary_shows_the_best_score_the_least_loss_and_else_the_last(tmp_path, client):
    logger = Logger.from_opt(options(n_epochs=4), tmp_path, {})
    logger.start()
    for epoch, recall in enumerate([0.1, 0.5, math.nan, 0.3]):
        log(logger, epoch, recall, loss=[3, 1, math.nan, 2][epoch])
    logger.close()
    summary = parts(tmp_path)[0].summary
    assert (summary[RECALL], summary["Train: loss"]) == (0.5, 1)
    assert (summary["Test: d-0.5_dists: dists@intra"], summary["Train: epochs"]) == (0.3, 3)


@pytest.mark.parametrize("last", [2, 3], ids=["stopped", "complete"])
def test_a_resumed_run_is_one_curve_with_one_best_value(tmp_path, client, last):
    """Also where a run had ended and gets more epochs: no point is lost behind its pictures."""
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    logger = Logger.from_opt(options(n_epochs=3), tmp_path, {})
    logger.start()
    for epoch, recall in enumerate([0.1, 0.5, 0.3][:last]):
        log(logger, epoch, recall)
    logger.picture("Sample retrievals", tmp_path / "a.png")
    logger.close()
    resumed = Logger.from_opt(options(n_epochs=5), tmp_path, {})
    resumed.load_state_dict(logger.state_dict())
    resumed.start()
    for epoch in range(last, 5):
        log(resumed, epoch, 0.2)
    resumed.close()
    first, second = parts(tmp_path)
    assert first.run.run_id == second.run.run_id == logger.online.id
    assert first.column("_step") + second.column("_step") == [0, 1, 2, 3, 4]
    assert second.summary[RECALL] == 0.5 and second.summary["Train: loss"] == pytest.approx(0.2)


def test_an_epoch_that_is_evaluated_after_a_resume_reaches_the_summary(tmp_path, client):
    """One that had ended without an evaluation and became the last one by --n_epochs."""
    logger = Logger.from_opt(options(n_epochs=3), tmp_path, {})
    logger.start()
    log(logger, 0, 0.2)
    logger.log("Train", "epochs", {"epochs": 1})
    logger.end_epoch(1)
    logger.publish()
    logger.close()
    resumed = Logger.from_opt(options(n_epochs=2), tmp_path, {})
    resumed.load_state_dict(logger.state_dict())
    resumed.start()
    resumed.log("Test", "d-0.5_e_recall", {"e_recall@1": 0.6}, best="max")
    resumed.end_epoch(1)
    resumed.publish()
    resumed.close()
    first, second = parts(tmp_path)
    assert first.summary[RECALL] == 0.2 and second.summary[RECALL] == 0.6


def test_epochs_that_wandb_is_ahead_of_leave_its_summary(tmp_path, client):
    run = run_of(tmp_path)
    run.logged = 5
    run.log({}, 5, {RECALL: 0.9})
    run.log({}, 4, {RECALL: 0.2})
    run.finish()
    assert parts(tmp_path)[0].summary[RECALL] == 0.9


def test_a_point_waits_for_its_checkpoint(tmp_path, client):
    """A run that cannot save an epoch trains it again."""
    logger = Logger.from_opt(options(), tmp_path, {})
    logger.start()
    log(logger, 0, 0.5)
    logger.log("Train", "epochs", {"epochs": 1})
    logger.end_epoch(1)
    logger.close(exit_code=1)
    part, = parts(tmp_path)
    assert part.column("_step") == [0] and part.finished == 1


KILLED = """
    import os, sys, time
    from pathlib import Path
    from utilities.wandb_run import WandbRun

    run = WandbRun(sys.argv[1], project="P", group="G", name="n", entity=None, tags=["t"], key=None,
                   mode="offline", last=9, config={})
    run.start()
    run.log({"loss": 1.0}, 0, {})
    file, = Path(sys.argv[1]).glob("wandb/offline-run-*/*.wandb")
    until = time.time() + 10
    while b"loss" not in file.read_bytes() and time.time() < until:
        time.sleep(0.1)
    os.kill(os.getpid(), 9)
"""


def test_a_killed_process_leaves_its_points(tmp_path):
    """The client by itself writes every 15 s."""
    subprocess.run([sys.executable, "-c", textwrap.dedent(KILLED), tmp_path], cwd=tmp_path,
                   env=os.environ | {"WANDB_MODE": "offline", "PYTHONPATH": str(ROOT)}, timeout=120)
    part, = parts(tmp_path)
    assert part.column("loss") == [1] and part.finished is None


def test_an_array_becomes_a_histogram_of_a_bar_per_entry(tmp_path, client):
    run = run_of(tmp_path)
    run.log({"spectrum": np.array([3.0, 1.0]), "long": np.arange(1000.0)}, 4, {})
    run.finish()
    point, = parts(tmp_path)[0].history
    assert point["_step"] == 4 and point["spectrum"] == {
        "_type": "histogram", "values": [3, 1], "bins": [0, 1, 2]}
    assert len(point["long"]["values"]) == 512 and point["long"]["bins"][-1] == 1000


def test_arrays_are_of_their_epoch_alone(tmp_path, client):
    logger = Logger.from_opt(options(), tmp_path, {})
    logger.start()
    for epoch, values in enumerate(({"spectrum": np.ones(2), "n": 1}, {"n": 2})):
        logger.log("Test", "a", values)
        logger.end_epoch(epoch)
        logger.publish()
    logger.close()
    history = parts(tmp_path)[0].history
    assert ["Test: a: spectrum" in point for point in history] == [True, False]


@pytest.fixture
def pictures(tmp_path):
    """{name: file} of two."""
    for name in ("a", "b"):
        Image.new("RGB", (4, 4), "red" if name == "a" else "blue").save(tmp_path / f"{name}.png")
    return {"Sample retrievals": tmp_path / "a.png", "Map": tmp_path / "b.png"}


def test_pictures_come_with_the_next_point_only(tmp_path, client, pictures):
    run = run_of(tmp_path)
    for name, path in pictures.items():
        run.picture(name, path)
    run.log({"loss": 1.0}, 0, {})
    run.log({"loss": 2.0}, 1, {})
    run.finish()
    part, = parts(tmp_path)
    for name, path in pictures.items():
        shown, without = part.column(name)
        assert without is None and shown["_type"] == "image-file"
        assert (part.folder / "files" / shown["path"]).read_bytes() == path.read_bytes()
    assert part.column("loss") == [1, 2]


def test_a_picture_that_was_moved_away_costs_no_point(tmp_path, client, pictures):
    run = run_of(tmp_path, n_epochs=2)
    for epoch in range(2):
        run.picture("Gone", tmp_path / "none.png")
        run.picture("Map", pictures["Map"])
        run.log({"loss": 1.0}, epoch, {})
    run.finish()
    part, = parts(tmp_path)
    assert part.column("loss") == [1, 1] and part.finished == 0
    assert [shown["_type"] for shown in part.column("Map")] == ["image-file"] * 2
    assert part.column("Gone") == [None, None]


def test_pictures_of_the_end_come_with_the_last_point(tmp_path, client, pictures):
    run = run_of(tmp_path, n_epochs=2)
    run.log({"loss": 1.0}, 0, {})
    run.log({"loss": 2.0}, 1, {"loss": 1.0})
    for name, path in pictures.items():
        run.picture(name, path)
    run.finish()
    part, = parts(tmp_path)
    assert part.column("loss") == [1, 2] and part.summary["loss"] == 1
    assert all(part.column(name)[1]["_type"] == "image-file" for name in pictures)


def test_a_sweep_gives_the_run_its_id_and_project(tmp_path, client, capsys):
    """As its agent does, through the environment; a resumed run keeps the id without the agent."""
    agent = {"WANDB_SWEEP_ID": "sweep1", "WANDB_RUN_ID": "agents12", "WANDB_PROJECT": "Sweeps",
             "WANDB_SWEEP_PARAM_PATH": str(tmp_path / "config.yaml")}
    (tmp_path / "config.yaml").write_text("wandb_version: 1\nlr:\n  value: 0.5\n")
    client(**agent)
    logger = Logger.from_opt(options(), tmp_path, {"lr": 0.5, "bs": 8})
    logger.start()
    log(logger, 0, 0.5)
    logger.close()
    client()
    resumed = Logger.from_opt(options(), tmp_path, {})
    resumed.load_state_dict(logger.state_dict())
    resumed.start()
    resumed.close()
    first, second = parts(tmp_path)
    assert first.run.run_id == second.run.run_id == logger.online.id == "agents12"
    assert (first.run.sweep_id, first.run.project) == ("sweep1", "Sweeps")
    assert first.config["lr"] == 0.5 and first.config["bs"] == 8
    assert "gnor" not in capsys.readouterr().err        # "Ignoring ..."


def test_an_id_in_the_environment_is_taken_by_a_new_run_alone(tmp_path, client):
    client(WANDB_RUN_ID="mine0001")
    run = run_of(tmp_path)
    assert run.id == "mine0001"
    run.finish()
    resumed = WandbRun.from_opt(options(), tmp_path, {})
    resumed.id = "earlier1"
    resumed.start()
    assert resumed.run.id == "earlier1"


def test_the_key_is_in_no_file_environment_or_command_line(tmp_path, client, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["diva_main.py", f"--wandb_key={KEY}", "--bs", "8"])
    run = run_of(tmp_path)
    assert sys.argv == ["diva_main.py", "--wandb_key=***", "--bs", "8"]
    assert KEY not in "".join(os.environ.values())
    run.finish()
    assert not files_with(tmp_path, KEY)


def test_a_refused_run_goes_on_offline_and_says_so_once(tmp_path, client, capsys):
    with Server(refuses=True) as server:
        client(WANDB_MODE="online", WANDB_BASE_URL=server.url)
        run = run_of(tmp_path)
        run.log({"loss": 1.0}, 0, {})
        run.finish()
    *_, part = parts(tmp_path)
    assert part.run.run_id == run.id and part.column("loss") == [1]
    told, = capsys.readouterr().err.strip().splitlines()
    assert told.startswith("W&B: cannot log online (") and f"`wandb sync {part.folder}`" in told


def test_a_point_is_kept_offline_when_the_client_fails(tmp_path, client, capsys):
    run = run_of(tmp_path)
    capsys.readouterr()
    run.told = False
    run.log({"loss": 1.0}, 0, {})
    run.run.finish()        # from now on it takes nothing
    run.log({"loss": 2.0}, 1, {"loss": 1.0})
    run.log({"loss": 3.0}, 2, {"loss": 1.0})
    run.finish()
    first, second = parts(tmp_path)
    assert first.run.run_id == second.run.run_id == run.id
    assert (first.column("loss"), second.column("loss")) == ([1], [2, 3])
    assert second.column("_step") == [1, 2] and second.summary["loss"] == 1
    told, = capsys.readouterr().err.strip().splitlines()
    assert told.startswith("W&B: lost at step 1 (") and f"`wandb sync {second.folder}`" in told


def test_a_client_that_is_not_installed_does_not_stop_training(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "wandb", None)
    run = run_of(tmp_path)
    run.log({"loss": 1.0}, 0, {})
    run.picture("Sample retrievals", "a.png")
    run.finish()
    told, = capsys.readouterr().err.splitlines()
    assert told.count("wandb") == 1 and "nothing is logged" in told


def test_an_invalid_variable_of_the_client_is_named_and_training_goes_on(tmp_path, client, capsys):
    client(WANDB_CONSOLE="loud")
    run = run_of(tmp_path)
    run.log({"loss": 1.0}, 0, {})
    run.finish()
    told = capsys.readouterr().err
    assert "(WANDB_CONSOLE: 'loud' in the environment; Input should be 'auto', " in told
    assert "nothing is logged" in told and parts(tmp_path) == []


@pytest.mark.parametrize(("mode", "asked", "by"), [
    ("offline", "online", "by the client's own settings (WANDB_MODE)"),
    ("dryrun", "online", "by the client's own settings (WANDB_MODE)"),
    ("online", "offline", "by --wandb_mode")])
def test_client_and_flag_can_only_restrict_the_mode(tmp_path, client, capsys, mode, asked, by):
    client(WANDB_MODE=mode)
    run_of(tmp_path, wandb_mode=asked).finish()
    part, = parts(tmp_path)
    assert capsys.readouterr().err == (
        f"W&B: offline, {by}; training goes on, upload what is logged from here on with "
        f"`wandb sync {part.folder}`\n")
    assert part.folder.name.startswith("offline-run-")


@pytest.mark.parametrize("asked", ["online", "offline"])
def test_a_client_that_is_disabled_keeps_nothing(tmp_path, client, capsys, asked):
    client(WANDB_MODE="disabled")
    logger = Logger.from_opt(options(wandb_mode=asked, n_epochs=1), tmp_path, {})
    logger.start()
    log(logger, 0, 0.5)
    logger.close()
    assert capsys.readouterr().err == "W&B: disabled, by the client's own settings (WANDB_MODE)\n"
    assert parts(tmp_path) == []


def test_bytes_that_are_no_utf_8_reach_the_client_escaped(tmp_path, client, monkeypatch, capsys):
    """It accepts them in the config alone, and no folder with such a name."""
    monkeypatch.setattr(sys, "argv", ["diva_main.py", "--savename", "caf\udce9"])
    run_of(tmp_path, savename="caf\udce9", dataset="caf\udce9").finish()
    part, = parts(tmp_path)
    assert (part.run.display_name, part.run.tags[0], sys.argv[2]) == (r"caf\udce9",) * 3
    capsys.readouterr()
    run_of(tmp_path / "caf\udce9")
    assert capsys.readouterr().err == (
        "W&B: offline, by the client's own settings (WANDB_MODE); training goes on, nothing is "
        "logged there from here on (the client takes no path that is not UTF-8, here "
        rf"'{tmp_path}/caf\udce9')" + "\n")


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
                    wandb_mode="online", wandb_entity=None, plots="none", n_epochs=3,
                    dataset="d", arch="a", loss="margin", diva_features=["discriminative"])
    logger = Logger.from_opt(opt, folder, {"loss": "margin"})
    begun = time.time()
    logger.start()
    print("started after", time.time() - begun, flush=True)
    for epoch in range(3):
        logger.log("Train", "loss", {"loss": epoch})
        logger.log("Test", "d_e_recall", {"e_recall@1": 0.5})
        logger.end_epoch(epoch)
        logger.publish()
        if scenario == "lost" and epoch == 0:
            time.sleep(1)
            print("lose", flush=True)
            sys.stdin.readline()
    logger.close()
    print("finished", flush=True)
"""
PROJECT = {"id": "p", "name": "P", "entity": {"id": "e", "name": "E"}}


class Server(ThreadingHTTPServer):
    """Enough of W&B's server for the client to believe in it, or, with `refuses`, to be turned
    away. Remembers what it was sent: bodies, keys, and of one run its points, one line each, and
    its summary."""

    daemon_threads = True

    def __init__(self, refuses=False):
        super().__init__(("127.0.0.1", 0), Answer)
        self.refuses, self.received, self.keys, self.lines = refuses, [], set(), []
        self.summary: dict = {}
        self.sweep, self.commands = {}, []      # what its agent is told, the latter once
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()

    def handle_error(self, request, client_address):
        pass

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def points(self):
        return list(map(json.loads, self.lines))

    def known(self):
        """The run, as the client that resumes it is told, None where nothing has come yet."""
        if not self.lines:
            return None
        return {
            "id": "x", "name": "r", "displayName": "G_s0", "config": "{}", "tags": [],
            "summaryMetrics": json.dumps(self.summary), "wandbConfig": '{"t": 1}',
            "historyLineCount": len(self.lines), "historyTail": json.dumps(self.lines[-1:]),
            "eventsLineCount": 0, "eventsTail": "[]", "logLineCount": 0}


class Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        server = self.server
        body = self.rfile.read(int(self.headers.get("content-length") or 0)).decode(
            errors="replace")
        server.received.append(body)
        kind, _, word = self.headers.get("authorization", "").partition(" ")
        if kind == "Basic":
            server.keys.add(base64.b64decode(word).decode())
        data = {}
        if self.path.endswith("/graphql"):
            data = {"data": self.graphql(json.loads(body))}
        elif self.path.endswith("/file_stream"):
            files = json.loads(body).get("files") or {}
            if history := files.get("wandb-history.jsonl"):
                server.lines[history["offset"]:] = history["content"]
            if summary := files.get("wandb-summary.json"):
                server.summary = json.loads(summary["content"][-1])
        self.answer(401 if server.refuses else 200, data)

    do_PUT = do_GET = do_POST

    def graphql(self, asked):
        variables = asked.get("variables") or {}
        if "RunResumeStatus" in asked["query"]:
            return {"model": PROJECT | {"bucket": self.server.known()}}
        if "Viewer" in asked["query"]:
            return {"viewer": {"id": "u", "entity": "E", "username": "u", "email": "e",
                               "flags": "{}", "teams": {"edges": []}}}
        if "UpsertBucket" in asked["query"]:
            return {"upsertBucket": {"inserted": True, "bucket": {
                "id": "x", "name": variables.get("name"), "config": "{}", "description": None,
                "displayName": variables.get("displayName"), "sweepName": None,
                "historyLineCount": len(self.server.lines), "project": PROJECT}}}
        if "SweepWithRuns" in asked["query"]:
            return {"project": {"sweep": {"config": json.dumps(self.server.sweep), "runs": {
                "edges": []}}}}
        if "CreateAgent" in asked["query"]:
            return {"createAgent": {"agent": {"id": "a"}}}
        if "Heartbeat" in asked["query"]:
            commands, self.server.commands = self.server.commands, []
            return {"agentHeartbeat": {"agent": {"id": "a"}, "commands": json.dumps(commands)}}
        if "CreateRunFiles" in asked["query"]:
            return {"createRunFiles": {"runID": "x", "uploadHeaders": [], "files": [
                {"name": name, "uploadUrl": f"{self.server.url}/{name}"}
                for name in variables["files"]]}}
        return {}

    def answer(self, status, data):
        text = json.dumps(data).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

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
    with Server() as server:
        output = train(tmp_path, server.url, "online")
    assert "finished" in output and "wandb sync" not in output
    assert [(point["_step"], point["Train: loss"], point["Test: d_e_recall: e_recall@1"])
            for point in server.points] == [(0, 0, 0.5), (1, 1, 0.5), (2, 2, 0.5)]
    assert server.keys == {f"api:{KEY}"}
    assert KEY not in "".join(server.received) and KEY not in output
    assert not files_with(tmp_path, KEY)


@pytest.mark.parametrize("lost", [0, 1, 3], ids=["nothing", "a point", "all points"])
def test_a_resumed_run_sends_what_wandb_lacks_and_nothing_twice(tmp_path, client, lost, capsys):
    """Killed two epochs behind its checkpoint, of which W&B may have got all or not. The key is
    the client's own."""
    with Server() as server:
        client(WANDB_MODE="online", WANDB_BASE_URL=server.url, WANDB_API_KEY=KEY)
        logger = Logger.from_opt(options(wandb_key=None), tmp_path, {})
        logger.start()
        for epoch in range(4):
            log(logger, epoch, recall=[0.1, 0.5, 0.3, 0.2][epoch])
            if epoch == 1:
                state = logger.state_dict()
        logger.close(exit_code=1)
        server.lines = server.lines[:3 - lost]
        server.summary |= {"_step": len(server.lines) - 1}
        resumed = Logger.from_opt(options(wandb_key=None), tmp_path, {})
        resumed.load_state_dict(state)
        resumed.start()
        for epoch in range(2, 6):
            log(resumed, epoch, recall=[0.3, 0.2, 0.4, 0.1][epoch - 2])
        resumed.close()
        assert [(point["_step"], point["Train: epochs"]) for point in server.points] == [
            (epoch, epoch) for epoch in range(6)]
        assert [point[RECALL] for point in server.points] == [0.1, 0.5, 0.3, 0.2, 0.4, 0.1]
    assert server.summary[RECALL] == 0.5 and server.keys == {f"api:{KEY}"}
    told = capsys.readouterr().out
    assert ("epochs up to 2 are there and not sent again" in told) == (lost == 0)


@pytest.mark.slow
def test_the_parts_of_a_resumed_run_are_one_curve_when_they_are_uploaded(tmp_path, client):
    """By `wandb sync`, as the run says; the last part adds nothing."""
    logger = Logger.from_opt(options(n_epochs=2), tmp_path, {})
    logger.start()
    for epoch, recall in enumerate([0.1, 0.5]):
        log(logger, epoch, recall)
    logger.close()
    resumed = Logger.from_opt(options(n_epochs=4), tmp_path, {})
    resumed.load_state_dict(logger.state_dict())
    resumed.start()
    for epoch, recall in ((2, 0.3), (3, 0.2)):
        log(resumed, epoch, recall)
    resumed.close()
    finished = Logger.from_opt(options(n_epochs=4), tmp_path, {})
    finished.load_state_dict(resumed.state_dict())
    finished.start()
    finished.close()
    folders = [part.folder for part in parts(tmp_path)]
    with Server() as server:
        subprocess.run([sys.executable, "-m", "wandb", "sync", *folders], check=True, env=os.environ
                       | {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": KEY}, cwd=tmp_path,
                       timeout=120)
    assert [(point["_step"], point[RECALL]) for point in server.points] == [
        (0, 0.1), (1, 0.5), (2, 0.3), (3, 0.2)]
    assert server.summary[RECALL] == 0.5 and server.summary["Train: epochs"] == 3


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
        server.__exit__()

    output = train(tmp_path, server.url, "lost", lose)
    assert "finished" in output and output.count("W&B: lost") == 1 and "wandb sync" in output
    assert stored_runs(tmp_path) and not files_with(tmp_path, KEY)


@pytest.mark.slow
def test_an_agent_trains_a_run_of_the_sweep(tmp_path):
    """The client's own agent, on images and a network that are made small by the drawn values."""
    from wandb.sdk.launch.sweeps.utils import load_sweep_config

    words = runs.arguments(tmp_path)
    small = dict(itertools.pairwise(words)) | {"--not_pretrained": True}
    with Server() as server:
        server.sweep = load_sweep_config(str(ROOT / "SampleRuns" / "wandb_sweep.yaml"))
        drawn = {name: given.get("value", 0.25)
                 for name, given in server.sweep["parameters"].items()}
        drawn |= {word[2:]: value for word, value in small.items() if word.startswith("--")}
        drawn |= {"n_epochs": 2, "samples_per_class": 2, "train_val_split": 0.5, "log_every": 1}
        server.commands = [{"type": "run", "run_id": "agents12", "program": "diva_main.py",
                            "args": {name: {"value": value} for name, value in drawn.items()}}]
        done = subprocess.run(
            [sys.executable, "-m", "wandb", "agent", "E/P/sweep1", "--count", "1"], cwd=ROOT,
            env=os.environ | {"WANDB_BASE_URL": server.url, "WANDB_MODE": "online",
                              "WANDB_API_KEY": KEY, "WANDB_DIR": str(tmp_path), "PATH":
                              f"{Path(sys.executable).parent}:{os.environ['PATH']}",
                              "HOME": str(tmp_path)},
            capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and server.points, done.stderr
    folder, = runs.folders(tmp_path)
    assert runs.last(folder)["logger"]["wandb_id"] == "agents12"
    goal = server.sweep["metric"]["name"]
    assert [(point["_step"], 0 <= point[goal] <= 1) for point in server.points] == [
        (0, True), (1, True)]
    assert "Ignoring" not in done.stdout + done.stderr
