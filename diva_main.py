"""DiVA: train one encoder with several embedding heads, evaluate it on unseen classes.

    python diva_main.py --dataset cub200 --source_path <folder of datasets> ...

The objective (see criteria/features.py) is a list of summands, which `train_epoch` adds up:

    L = sum over features f of weight_f * L_f(step)

where `step` holds the outputs of the networks for a batch.
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
from criteria import features
from criteria.teaching import Teaching
from datasets.check import check_data
from datasets.loader import Loader
from datasets.workers import explain_lost_workers
from evaluation.evaluate_only import evaluate_only
from evaluation.evaluator import Evaluator
from utilities import checkpoint, environment, run_folder, setup
from utilities.embedding import embed
from utilities.errors import RunError, UserError
from utilities.interrupt import Interrupted, Interrupts
from utilities.logger import Logger
from utilities.loss_scaling import LossScaling
from utilities.monitor import Monitor, gradient_statistics
from utilities.random_streams import stream


def main(opt) -> int:
    """Runs what the options ask for; returns the exit status."""
    try:
        with Interrupts() as interrupts, explain_lost_workers(), setup.explain_out_of_memory():
            if opt.check_data:
                return 0 if check_data(opt.dataset, opt) else 1
            if opt.evaluate_only:
                return evaluate_only(opt)
            return Training(opt, interrupts).run()
    except (UserError, RunError) as error:
        print(f"diva_main.py: error: {error}", file=sys.stderr)
        return 2 if isinstance(error, UserError) else 1
    except Interrupted as stop:
        return 128 + stop.signum


class Training:
    """A run: the constructor assembles it and writes nothing to the disk, `run` trains."""

    def __init__(self, opt, interrupts: Interrupts):
        self.opt, self.interrupts = opt, interrupts
        self.device = setup.device(opt)
        architectures.check(opt.arch)   # before the seed: importing a library draws numbers
        setup.seed(opt)
        self.scaling = LossScaling(opt.precision, self.device)
        self.splits = datasets.select(opt.dataset, opt)
        self.training_set = self.splits["training"]
        saved = opt.resume and run_folder.last(opt.resume)
        self.network = architectures.select(opt.arch, opt, pretrained=not saved).to(self.device)
        self.identity = datasets.Identity(self.splits, self.network.trained_on)
        self.objective = features.assemble(
            opt, network=self.network, n_classes=self.training_set.n_classes,
            n_samples=len(self.training_set)).to(self.device)
        self.optimiser = setup.optimiser(opt, self.network, self.objective)
        self.scheduler = setup.scheduler(opt, self.optimiser)
        self.sampler = datasampler.select(opt.data_sampler, opt, self.training_set)
        main_feature = features.main(self.objective)
        self.stored_head = main_feature.name  # its embeddings are those in a sampler's storage
        self.sampler.bind(main_feature.criterion)
        self.loader = Loader(self.training_set, opt, self.device, self.sampler)
        self.evaluator = Evaluator.from_opt(opt, self.splits, self.device)
        self.between_steps = features.Run(
            self.network, self.loader, Loader(self.splits["evaluation_train"], opt, self.device),
            self.optimiser)
        if opt.compile:
            setup.compile_parts(self.device, self.network, *self.objective)
        self.epoch, self.seconds, self.monitor = 0, 0.0, Monitor()
        self.teaching = Teaching(self.objective)

    def run(self) -> int:
        """Trains the remaining epochs and writes the summary."""
        opt, options = self.opt, parameters.public(self.opt)
        self.folder = (Path(opt.resume) if opt.resume else
                       run_folder.create(opt.save_path, opt.dataset, opt.savename))
        self.lock, last = run_folder.lock(self.folder), run_folder.last(self.folder)
        self.last_state = checkpoint.LastEpoch(self.folder / run_folder.LAST, opt.save_every)
        versions = environment.describe()
        self.logger = Logger.from_opt(opt, self.folder, options | {"environment": versions})
        print(f"Run folder: {self.folder}\nObjective: {features.formula(self.objective)}\n"
              f"{self.evaluator.criterion}", flush=True)
        try:
            if last:
                checkpoint.restore(last, self.load_state_dict, flag="--resume")
            run_folder.describe(self.folder, options, versions)
            if not last:
                self.begin()
            self.logger.start()
            while self.epoch < opt.n_epochs:
                self.train_epoch(self.epoch)
                self.evaluate_and_save(self.epoch)
        except Exception as error:
            self.flush()
            self.monitor.explain(error, self.folder, self.epoch, self.training_set.paths)
            raise
        except Interrupted as stop:
            print(f"\nStopped by {stop} after {self.epoch} whole epochs. Go on with:\n"
                  f"    {run_folder.resume_command(self.folder)}", file=sys.stderr)
            raise
        finally:
            self.close()
        run_folder.summarise(self.folder, self.seconds / 60, self.evaluator.summary())
        print(f"\n{self.evaluator.summary()}\n\nTraining took {self.seconds / 60:.1f} min. Logs, "
              f"plots, pictures and checkpoints: {self.folder}")
        return 0

    def begin(self) -> None:
        """Prepares the first epoch of a new run."""
        self.fill_storage()
        for feature in self.objective:
            feature.begin(self.between_steps)
        self.monitor.check(self.network, self.objective)

    def flush(self) -> None:
        """Writes the last whole epoch where it is only held in memory; signals wait meanwhile."""
        with self.interrupts.shield(raises=False):
            self.last_state.flush()

    def close(self) -> None:
        """Writes and draws what is due at the end; ends workers, the W&B run and the lock."""
        try:
            self.flush()
            for part in (self.loader, self.between_steps.training_images, self.evaluator):
                part.close()
            self.evaluator.finish(self.logger)
        finally:
            self.logger.close(exit_code=int(sys.exc_info()[0] is not None))
            self.lock.release()

    def train_epoch(self, epoch: int) -> None:
        """One pass over the sampler's batches, by the formula at the top of this file."""
        objective, network, optimiser = self.objective, self.network, self.optimiser
        with stream(self.opt.seed, epoch, len(self.loader), device=self.device):
            for feature in objective.train():
                feature.before_epoch(self.between_steps, epoch)
        if epoch and self.opt.data_idx_full_prec:
            self.fill_storage()
        network.train()
        monitor = self.monitor = Monitor(self.opt.log_every, self.monitor.means)
        groups = [group["params"] for group in optimiser.param_groups]
        bar = tqdm(self.loader.epoch(epoch), f"Epoch {epoch}", len(self.loader), leave=False,
                   disable=None, unit="batch")
        for batch in bar:
            step = features.forward(network, objective, batch)
            with stream(self.opt.seed, epoch, monitor.n_steps, device=self.device):
                losses = {feature.name: feature.loss(step) for feature in objective}
            if monitor.n_steps % self.opt.log_every == 0:
                self.teaching.measure(losses, step)
            total = sum(feature.weight * losses[feature.name] for feature in objective)
            self.scaling.backward(total, optimiser)
            gradients = gradient_statistics(*groups)
            scaled_up = self.scaling.step(optimiser)
            for feature in objective:
                feature.after_step(step, network)
            self.sampler.update(step.batch.indices, step.embeddings[self.stored_head].detach())
            terms = {f"Loss: {name}": loss for name, loss in losses.items()} | {"loss": total}
            monitor.add(terms, gradients, step.batch.indices, scaled_up)
            if monitor.n_steps % self.opt.log_every == 0:
                monitor.read()
            bar.set_postfix(monitor.progress(self.opt.bs), refresh=False)
        self.log_epoch(epoch, monitor.read(), monitor.seconds())
        self.scheduler.step()

    def log_epoch(self, epoch: int, means: dict, seconds: float) -> None:
        """Logs the epoch's training scalars, under the names that dashboards use."""
        log, speed = self.logger.log, len(self.loader) * self.opt.bs / seconds
        print(f"Epoch {epoch}: loss {means['loss']:.4f}, {speed:.1f} images/s", flush=True)
        self.seconds += seconds
        for name, value in {"epochs": epoch, "time": seconds, "images per second": speed,
                            "loss": means["loss"]}.items():
            log("Train", name, {name: value})
        mean_losses = {feature.name: means[f"Loss: {feature.name}"] for feature in self.objective}
        log("Train", "Loss", mean_losses)
        for feature in self.objective:
            for group, segments in feature.scalars(mean_losses[feature.name]).items():
                log("Train", group, segments)
        shares, idle = self.teaching.read(mean_losses)
        log("Train", "Gradient share", shares)
        for line in idle:
            print(f"Epoch {epoch}: {line}", file=sys.stderr)
        for name in ("L2", "Max"):
            log("Model Grad", name, {f"Grad {name}": means[f"Grad {name}"]})
        log("Train", "Learning rate", {g["name"]: g["lr"] for g in self.optimiser.param_groups})

    def evaluate_and_save(self, epoch: int) -> None:
        """Metrics, logs and checkpoints of a finished epoch, in an order safe against crashes."""
        self.monitor.check(self.network, self.objective)
        if epoch + 1 < self.opt.n_epochs and not self.opt.data_idx_full_prec:
            self.loader.start(epoch + 1)    # workers read its first batches during the evaluation
        better = self.evaluator.evaluate(self.network, epoch, self.logger)
        with self.interrupts.shield():
            self.logger.end_epoch(epoch)
            self.epoch = epoch + 1
            checkpoint.save_same(
                [self.folder / run_folder.checkpoint_name(*name) for name in better],
                {"state_dict": self.network.state_dict(), "epoch": epoch,
                 "data": self.identity.state_dict(), "options": parameters.public(self.opt)})
            self.last_state.save(self.state_dict(), self.epoch)
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
        return {"data": self.identity, "state_dict": self.network,
                "objective": self.objective, "sampler": self.sampler, "optimiser": self.optimiser,
                "scheduler": self.scheduler, "scaler": self.scaling.scaler, "logger": self.logger,
                "evaluator": self.evaluator, "random": checkpoint.RandomState}

    def fill_storage(self) -> None:
        """Embeds every training image for samplers that choose batches by embeddings."""
        if self.sampler.uses_storage:
            loader = Loader(self.splits["evaluation"], self.opt, self.device)
            self.sampler.fill(embed(self.network, loader, [self.stored_head]))
            loader.close()


if __name__ == "__main__":
    sys.exit(main(OPT))
