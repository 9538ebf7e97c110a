"""DiVA: train one encoder with several embedding heads, evaluate it on unseen classes.

    python diva_main.py --dataset cub200 --source_path <folder of datasets> ...

The objective (see criteria/features.py) is a list of summands, which `train_epoch` adds up:

    L = sum over features f of weight_f * L_f(step),    step: outputs of the networks for a batch
"""

import parameters
from utilities import terminal

if __name__ == "__main__":  # before torch is imported: --help, mistakes and Ctrl-C end it at once
    terminal.prepare()
    OPT = parameters.read_arguments()

import sys
from pathlib import Path

from tqdm import tqdm

import architectures
import datasampler
import datasets
from architectures.batch_norm import share_statistics
from criteria import features
from criteria.teaching import Teaching
from datasets.check import check_data
from datasets.loader import Loader
from datasets.workers import explain_lost_workers
from evaluation.evaluate_only import evaluate_only
from evaluation.evaluator import Evaluator
from utilities import checkpoint, distributed, interrupt, run_folder, setup, tool
from utilities.average import Average
from utilities.distributed import ALONE, Alone
from utilities.embedding import embed
from utilities.errors import RunError, UserError
from utilities.interrupt import Interrupted, Interrupts
from utilities.loss_scaling import LossScaling
from utilities.monitor import Monitor, gradient_statistics
from utilities.random_streams import stream
from utilities.record import Record, Silent
from utilities.schedule import Schedule
from utilities.training_log import log_training


def main(opt) -> int:
    """Runs what the options ask for; returns the exit status."""
    try:
        with (Interrupts(), distributed.join() as processes, explain_lost_workers(),
              setup.explain_out_of_memory()):
            if opt.check_data:
                return processes.first(lambda: 0 if check_data(opt.dataset, opt) else 1)
            if opt.evaluate_only:
                return evaluate_only(opt, processes)
            return Training(opt, processes).run()
    except (UserError, RunError) as error:
        tool.tell(parameters.PROGRAM, error)
        return error.status
    except (Interrupted, distributed.Ended) as end:
        return end.status


class Training:
    """A run: the constructor assembles it and writes nothing to the disk, `run` trains."""

    def __init__(self, opt, processes: Alone = ALONE):
        self.opt, self.processes = opt, processes
        self.device = processes.connect(setup.device(opt))
        architectures.check(opt.arch)   # before the seed: importing a library draws numbers
        setup.seed(opt)
        self.scaling = LossScaling(opt.precision, self.device, processes)
        saved = opt.resume and run_folder.last(opt.resume)
        with processes.first_of_machine():      # which downloads weights and renders glyphs
            self.splits = datasets.select(opt.dataset, opt)
            self.network = architectures.select(opt.arch, opt, pretrained=not saved)
        self.training_set = self.splits["training"]
        share_statistics(self.network.to(self.device), processes)
        self.identity = datasets.Identity(self.splits, self.network.trained_on)
        self.objective = features.assemble(
            opt, network=self.network, n_classes=self.training_set.n_classes,
            n_samples=len(self.training_set)).to(self.device)
        processes.accept(self.network, self.objective)
        self.optimiser = setup.optimiser(opt, self.network, self.objective)
        self.average = Average(self.network, opt.ema, self.optimiser)
        self.sampler = datasampler.select(opt.data_sampler, opt, self.training_set)
        main_feature = features.main(self.objective)
        self.stored_head = main_feature.name  # its embeddings are those in a sampler's storage
        self.sampler.bind(main_feature.criterion)
        self.loader = self.make_loader("training", self.sampler)
        self.schedule = Schedule.from_opt(opt, self.optimiser, len(self.loader))
        self.evaluator = Evaluator.from_opt(opt, self.splits, self.device, processes)
        self.between_steps = features.Run(
            self.network, self.loader, self.make_loader("evaluation_train"), self.optimiser,
            processes)
        setup.compile_parts(opt, self.device, self.network, self.average.network, *self.objective)
        self.epoch, self.seconds, self.monitor = 0, 0.0, Monitor()
        self.teaching, self.record = Teaching(self.objective), Silent()

    def make_loader(self, split: str, sampler=None) -> Loader:
        return Loader(self.splits[split], self.opt, self.device, sampler, self.processes)

    def run(self) -> int:
        """Trains the remaining epochs and writes the summary."""
        self.folder = Path(self.processes.first(self.open_folder))
        last = run_folder.last(self.folder)
        try:
            if last:
                checkpoint.restore(last, self.load_state_dict, flag="--resume")
            self.record.describe()
            if not last:
                self.begin()
            self.record.logger.start()
            if self.evaluator.lacks(self.epoch - 1):    # the last one, by a resume's --n_epochs
                self.evaluate_and_save(self.epoch - 1)
            while self.epoch < self.opt.n_epochs:
                self.train_epoch(self.epoch)
                self.evaluate_and_save(self.epoch)
        except Exception as error:
            self.record.flush()
            self.processes.claim(error)
            self.monitor.explain(error, self.folder, self.epoch, self.training_set.paths)
            raise
        except Interrupted as stop:
            self.processes.claim(stop)
            print(f"\nStopped by {stop} after {self.epoch} whole epochs. Go on with:\n"
                  f"    {run_folder.resume_command(self.folder)}", file=sys.stderr)
            raise
        finally:
            self.close()
        self.processes.first(self.summarise)
        return 0

    def open_folder(self) -> str:
        """Makes or locks the run's folder and begins its record; returns its path."""
        self.record = Record(self.opt, parameters.public(self.opt))
        print(f"Run folder: {self.record.folder}\nObjective: {features.formula(self.objective)}\n"
              f"{self.evaluator.criterion}", flush=True)
        return str(self.record.folder)

    def begin(self) -> None:
        """Prepares the first epoch of a new run."""
        self.fill_storage()
        for feature in self.objective:
            feature.begin(self.between_steps)
        self.monitor.check(self.network, self.objective)

    def close(self) -> None:
        """Writes and draws what is due at the end; ends workers, the W&B run and the lock."""
        try:
            self.record.flush()
            for part in (self.loader, self.between_steps.training_images, self.evaluator):
                part.close()
            self.evaluator.finish(self.record.logger)
        finally:
            self.record.close()

    def summarise(self) -> None:
        summary, minutes = self.evaluator.summary(), self.seconds / 60
        run_folder.summarise(self.folder, minutes, summary)
        print(f"\n{summary}\n\nTraining took {minutes:.1f} min. Logs, plots, pictures and "
              f"checkpoints: {self.folder}")

    def train_epoch(self, epoch: int) -> None:
        """One pass over the sampler's batches, by the formula at the top of this file."""
        objective, network, optimiser = self.objective, self.network, self.optimiser
        with stream(self.opt.seed, epoch, len(self.loader), device=self.device):
            for feature in objective.train():
                feature.before_epoch(self.between_steps, epoch)
        if epoch and self.opt.data_idx_full_prec:
            self.fill_storage()
        network.rest(epoch < self.opt.freeze_backbone).train()
        self.processes.part_streams(self.opt.seed, epoch)
        monitor = self.monitor = Monitor(self.opt.log_every, self.monitor.means)
        groups = [group["params"] for group in optimiser.param_groups]
        bar = tqdm(self.loader.epoch(epoch), f"Epoch {epoch}", len(self.loader), leave=False,
                   disable=None, unit="batch")
        for batch in bar:
            step = features.forward(network, objective, batch, self.processes)
            with stream(self.opt.seed, epoch, monitor.n_steps, device=self.device):
                losses = {feature.name: feature.loss(step) for feature in objective}
            if monitor.n_steps % self.opt.log_every == 0:
                self.teaching.measure(losses, step)
            total = sum(feature.weight * losses[feature.name] for feature in objective)
            self.scaling.backward(total, optimiser)
            gradients = gradient_statistics(*groups)
            self.schedule.before_step(epoch, monitor.n_steps)
            scaled_up = self.scaling.step(optimiser)
            for feature in objective:
                feature.after_step(step, network)
            self.sampler.update(step.batch.indices, step.embeddings[self.stored_head].detach())
            terms = {f"Loss: {name}": loss for name, loss in losses.items()} | {"loss": total}
            monitor.add(terms, gradients, step.batch.indices, scaled_up)
            if monitor.n_steps % self.opt.log_every == 0:
                monitor.read()
                self.processes.compare([network, objective], step.batch.indices, losses)
            bar.set_postfix(monitor.progress(self.opt.bs), refresh=False)
        means, seconds = monitor.read(), monitor.seconds()
        self.seconds += seconds
        log_training(self.record.logger, epoch, means, seconds, len(self.loader) * self.opt.bs,
                     objective=objective, teaching=self.teaching, optimiser=optimiser)
        self.schedule.after_epoch(epoch)

    def evaluate_and_save(self, epoch: int) -> None:
        """Metrics, logs and checkpoints of a finished epoch, in an order safe against crashes."""
        self.monitor.check(self.network, self.objective)
        if epoch + 1 < self.opt.n_epochs and not self.opt.data_idx_full_prec:
            self.loader.start(epoch + 1)    # workers read its first batches during the evaluation
        better = self.evaluator.evaluate(self.average.network, epoch, self.record.logger)
        with interrupt.shield():
            self.record.logger.end_epoch(epoch)
            self.epoch = epoch + 1
            network = {"state_dict": self.average.network.state_dict(), "epoch": epoch,
                       "data": self.identity.state_dict(), "options": parameters.public(self.opt)}
            self.record.save(epoch, better, network, self.state_dict())
        if self.evaluator.evaluates(epoch):
            print(self.evaluator.report(f", epoch {epoch}"), flush=True)    # now it is saved

    def state_dict(self) -> dict:
        """All that the rest of the run depends on, as plain types and tensors."""
        return {"epoch": self.epoch, "seconds": self.seconds,
                "options": parameters.public(self.opt),
                **{name: part.state_dict() for name, part in self.stateful().items()}}

    def load_state_dict(self, state: dict) -> None:
        self.seconds, self.epoch = state["seconds"], run_folder.epochs_in(state, self.opt.n_epochs)
        for name, part in self.stateful().items():
            part.load_state_dict(state[name])

    def stateful(self) -> dict:
        return {"data": self.identity, "state_dict": self.average.network, **self.average.parts,
                "objective": self.objective, "sampler": self.sampler, "optimiser": self.optimiser,
                "scheduler": self.schedule.scheduler, "scaler": self.scaling.scaler,
                "logger": self.record.logger, "evaluator": self.evaluator,
                "random": checkpoint.RandomState}

    def fill_storage(self) -> None:
        """Embeds every training image for samplers that choose batches by embeddings."""
        if self.sampler.uses_storage:
            loader = self.make_loader("evaluation")
            self.sampler.fill(embed(self.network, loader, [self.stored_head],
                                    processes=self.processes, everywhere=True))
            loader.close()


if __name__ == "__main__":
    sys.exit(main(OPT))
