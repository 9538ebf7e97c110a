"""Every command-line flag with its help, and `resolve`: all derivation and validation of options.

Call `read_arguments`. A flag is a line in the table of the folder where it acts; the functions
below `resolve` settle options that depend on each other. Nothing here imports torch, so that
`--help` and mistakes are answered at once.
"""

import copy
import math
import os
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import architectures
import batchminer
import criteria
import datasampler
import datasets
import metrics
from evaluation import evaltypes
from utilities import environment, options
from utilities.environment import available_cores
from utilities.errors import UserError, refuse
from utilities.files import fault, working_directory
from utilities.options import ABOVE_0, FROM_0, FROM_1, GUEST, NO_EFFECT, SHARE, Flag, Range, show
from utilities.tool import tell

PROGRAM = "diva_main.py"
DESCRIPTION = "Train DiVA and evaluate it on classes never seen in training."
NO_KEY = "<your_api_key_here>"
WANDB_MODES = ("online", "offline", "disabled", "shared", "dryrun", "run")    # of its client
DANCES = ("released", "fixed", "weighted")
UPPER_CUTOFF = NO_EFFECT + ": the original leaves this cutoff out, too"

TRAINING = (
    Flag("--n_epochs", int, 150, "epochs to train", FROM_1),
    Flag("--bs", int, 112, "images in a batch", Range(2)),
    Flag("--lr", float, 1e-5, "learning rate of the network", ABOVE_0),
    Flag("--fc_lr", float, -1, "learning rate of the embedding heads; -1: --lr", Range(0, off=-1)),
    Flag("--decay", float, 4e-4, "weight decay of the network (criteria have none)", FROM_0),
    Flag("--optim", str, "adam", "optimiser: adam; adamw, which applies --decay apart from the "
         "gradient, to biases and norms too; or sgd with momentum 0.9", ("adam", "adamw", "sgd")),
    Flag("--use_sgd", bool, False, "the same as --optim sgd"),
    Flag("--scheduler", str, "step", "how learning rates fall: by the factor --gamma after the "
         "epochs --tau (step) or after every epoch (exp), along half a cosine towards 0 at the end "
         "of --n_epochs (cosine), or not (none)", ("step", "exp", "cosine", "none")),
    Flag("--gamma", float, 0.3, "factor of --scheduler step and exp", ABOVE_0),
    Flag("--tau", int, [10000], "epochs after which --scheduler step acts", FROM_1, "+"),
    Flag("--warmup_epochs", int, 0, "epochs in which every step raises all learning rates, "
         "linearly from 0 to their values; --scheduler begins after them, and --tau counts from "
         "there", FROM_0),
    Flag("--clip_grad", float, 0, "largest norm of the network's gradient: a longer one is scaled "
         "down to it before the step; 0: no limit", FROM_0),
    Flag("--ema", float, 0, "decay of a running average of the network, such as 0.999: the average "
         "is what is evaluated and kept as the best; 0: no average", Range(0, 1, below=True)),
    Flag("--freeze_backbone", int, 0, "epochs at the start in which the backbone stays as it is, "
         "BatchNorm statistics included, while heads and criteria learn", FROM_0),
    Flag("--seed", int, 1, "seed of all random numbers", Range(0, 2**32 - 1)),
    Flag("--device", str, "auto", "where to train; auto: a GPU if there is one, else the CPU",
         ("auto", "cuda", "cpu")),
    Flag("--gpu", int, [0], "index of the GPU to use", FROM_0, "+"),
    Flag("--precision", str, "fp32", "number format of the network; criteria and miners always "
         "compute in fp32; fp16 scales the loss and needs a GPU; with fp32 a GPU may use TF32 in "
         "convolutions, torch's default", ("fp32", "bf16", "fp16")),
    Flag("--grad_cache_chunk", int, 0, "images that the network embeds at once, for batches larger "
         "than memory: each chunk is embedded a second time in the backward pass, the losses see "
         "the whole batch; 0: the whole batch at once", FROM_0),
    Flag("--channels_last", bool, False, "keep images in memory with their channels last, faster "
         "with bf16 and fp16 on recent GPUs"),
    Flag("--compile", bool, False, "compile the network with torch.compile: the first steps are "
         "slow, all others faster"),
    Flag("--deterministic", bool, False, "use only deterministic GPU algorithms: slower, but runs "
         "with the same seed give the same numbers"),
    Flag("--resume", str, None, "resume the run in this folder, with its options"),
    Flag("--evaluate_only", bool, False, "evaluate the network in --checkpoint and stop"),
    Flag("--checkpoint", str, None, "checkpoint file for --evaluate_only; options that are not "
         "given are those of the run that wrote it"),
    Flag("--extension", str, "none", NO_EFFECT),
)

DATASETS = (
    Flag("--dataset", str, "cub200", "folder below --source_path: cub200, cars196, "
         "online_products, in-shop, glyphs (made on first use), or any other with "
         "images/<class>/<files>, {train,val,test}/<class>/<files> or a table.csv"),
    Flag("--source_path", str, working_directory() + "/../../Datasets", "folder that holds the "
         "datasets"),
    Flag("--train_val_split", float, 1, "share of each training class to train on; the rest (of a "
         "class two images or more, or none) is a validation split, on which checkpoints are "
         "chosen; 1: none, they are chosen on test",
         Range(0, 1, above=True)),
    Flag("--train_val_split_by_class", bool, False, "--train_val_split is a share of the classes"),
    Flag("--val_folds", int, None, "cut the training classes, in their order, into this many equal "
         "blocks, of which --val_fold is the validation split, on which checkpoints are chosen; "
         "where there is a remainder, the first blocks have one class more", Range(2)),
    Flag("--val_fold", int, None, "the block of --val_folds that validates, counted from 0",
         FROM_0),
    Flag("--augmentation", str, "base", "training augmentation of both views: base: random resized "
         "crop and flip; adv: also grey and colour jitter 0.2; big: as base with crops of 256, in "
         "evaluation too; red: resize, random crop and flip", ("base", "adv", "big", "red")),
    Flag("--realistic_augmentation", bool, False,
         "second view with random grey and colour jitter 0.4"),
    Flag("--realistic_main_augmentation", bool, False,
         "main view with random grey and colour jitter 0.4, whatever --augmentation says"),
    Flag("--crop_size", int, None, "side of the images that the network sees, in pixels (default: "
         "224; 227 for bninception and googlenet; 256 with --augmentation big)", FROM_1),
    Flag("--resize", int, None, "short side of evaluation images before their centre is cropped, "
         "in pixels (default: 256, scaled in proportion to a --crop_size other than its default)",
         FROM_1),
    Flag("--kernels", int, 8, "worker processes that load images; 0: load in the main process; "
         "when not given: one for each core, at most 16, shared by the processes of a torchrun",
         FROM_0),
    Flag("--cache", str, "none", "keep all decoded images in memory that the workers share (ram), "
         "or the training images on the GPU, which then also augments them (gpu)",
         ("none", "ram", "gpu")),
    Flag("--skip_broken_images", bool, False, "leave out and print images that cannot be read; "
         "otherwise they end the run"),
    Flag("--check_data", bool, False, "read every image of the dataset, report, and stop"),
)

ARCHITECTURES = (
    Flag("--arch", str, "resnet50_frozen_normalize", "backbone (resnet50, bninception, googlenet, "
         "another of pretrainedmodels and torchvision, or timm:<a model of timm>, such as "
         "timm:vit_small_patch16_224.dino), with suffixes _frozen (BatchNorm keeps its "
         "statistics) and _normalize (unit-length embeddings) in any order"),
    Flag("--embed_dim", int, 128, "dimensions of each feature's embedding", Range(2)),
    Flag("--not_pretrained", bool, False, "start from random weights instead of ImageNet's"),
    Flag("--weights_path", str, None, "file with the backbone's weights (.pth, .safetensors), "
         "instead of a download, or a run's checkpoint: a new run starts from its trunk, and from "
         "its heads of the same feature and --embed_dim"),
)

DATASAMPLER = (
    Flag("--data_sampler", str, "class_random", "which images make a batch", datasampler.SAMPLERS),
    Flag("--samples_per_class", int, 2, "images of each class in a batch, for the samplers that "
         "draw class by class", FROM_1),
    Flag("--data_batchmatch_bigbs", int, 512, "random candidates from which a storage sampler "
         "chooses a batch", FROM_1),
    Flag("--data_batchmatch_ncomps", int, 10, "random subsets that batchmatch compares", FROM_1),
    Flag("--data_storage_no_update", bool, False, "storage samplers keep the embeddings from "
         "before training"),
    Flag("--data_idx_full_prec", bool, False, "storage samplers embed the training set before each "
         "epoch, instead of taking the embeddings of training batches"),
    Flag("--data_mb_mom", float, -1, "momentum of the storage's update; -1: plain replacement",
         Range(0, 1, off=-1)),
    Flag("--data_mb_lr", float, 1, "step of the storage's update with --data_mb_mom", ABOVE_0),
    Flag("--data_sampler_lowproj_dim", int, -1, "dimensions of the random linear map under which a "
         "storage sampler compares; -1: none", Range(1, off=-1)),
    Flag("--data_sim_measure", str, "euclidean", "distance of full_greedy_coreset: euclidean is "
         "the squared Euclidean distance, square its root", ("euclidean", "square", "cosine")),
    Flag("--data_gc_softened", bool, False, "greedy coreset samplers take a random candidate above "
         "the 97th percentile of distance, not the farthest"),
    Flag("--data_d2_coreset_lambda", float, 1, "d2_coreset: exponent of squared distances", FROM_0),
    Flag("--data_gc_coreset_lim", float, 1e-9, NO_EFFECT),
)

BATCHMINER = (
    Flag("--batch_mining", str, "distance", "how tuples for --loss are chosen in a batch, or "
         "pml:<miner of pytorch-metric-learning>; when not given, npair and angular use npair, "
         "lifted uses lifted", batchminer.MINERS, guests=True),
    Flag("--miner_distance_lower_cutoff", float, 0.5, "distance below which negatives do not "
         "become likelier (distance, random_distance, shared_*_distance)", FROM_0),
    Flag("--miner_distance_upper_cutoff", float, 1.4, UPPER_CUTOFF, ABOVE_0),
    Flag("--miner_rho_distance_lower_cutoff", float, 0.5, "--miner_distance_lower_cutoff of "
         "rho_distance", FROM_0),
    Flag("--miner_rho_distance_upper_cutoff", float, 1.4, UPPER_CUTOFF, ABOVE_0),
    Flag("--miner_rho_distance_cp", float, 0.2, "rho_distance: probability of a triplet with "
         "the anchor as positive and an image of its class as negative", SHARE),
    Flag("--miner_anticollapse_distance_lower_cutoff", float, 0.5, "--miner_distance_lower_cutoff "
         "of anticollapse_distance", FROM_0),
    Flag("--miner_anticollapse_distance_upper_cutoff", float, 1.4, "distance above which "
         "anticollapse_distance takes no negative", ABOVE_0),
    Flag("--miner_anticollapse_cdistance_lower_cutoff", float, 0.5, "--miner_distance_lower_cutoff "
         "of anticollapse_cdistance", FROM_0),
    Flag("--miner_anticollapse_cdistance_upper_cutoff", float, 1.4, UPPER_CUTOFF, ABOVE_0),
    Flag("--miner_anticollapse_cdistance_cp", float, 0.2, "--miner_rho_distance_cp of "
         "anticollapse_cdistance", SHARE),
    Flag("--miner_parametric_mode", str, "uniform", "distances at which parametric takes "
         "negatives: all, hard (at most 0.5), semi-hard (0.3 to 0.7) or very hard (at most 0.3)",
         ("uniform", "hards", "semihards", "veryhards")),
    Flag("--miner_parametric_n_support", int, 10, "edges of parametric's distance histogram",
         Range(2)),
    Flag("--miner_parametric_support_lim", float, [0.1, 1.8], "first and last edge of parametric's "
         "histogram", FROM_0, 2),
    Flag("--pml_miner_args", dict, {}, "arguments of a pml: miner, as a JSON object"),
)

DIVA = (
    Flag("--diva_features", str, ["discriminative"], "features to train, each with a head: "
         "discriminative, selfsimilarity, shared and intra make the published method; ensemble_1 "
         "to ensemble_3 are taught as discriminative, for comparison with as many heads",
         criteria.FEATURES, "+"),
    Flag("--diva_ssl", str, "fast_moco", "criterion of selfsimilarity: fast_moco (DaNCE), or moco, "
         "the same without weights of the negatives", ("fast_moco", "moco")),
    Flag("--diva_sharing", str, "random", "tuples of shared: random permutes labels; standard "
         "takes a near negative and a positive of a third class; full takes both near",
         ("random", "standard", "full")),
    Flag("--diva_intra", str, "random", "tuples of intra: three random members of a class",
         ("random",)),
    Flag("--diva_alpha_ssl", float, 0.3, "weight of the selfsimilarity loss", FROM_0),
    Flag("--diva_alpha_shared", float, 0.3, "weight of the shared loss", FROM_0),
    Flag("--diva_alpha_intra", float, 0.3, "weight of the intra loss", FROM_0),
    Flag("--diva_decorrelations", str, [], "pairs source-target to decorrelate, e.g. "
         "shared-discriminative; when not given: those of the paper for the three- and "
         "four-feature method, else none", None, "+"),
    Flag("--diva_rho_decorrelation", float, [1500], "weight of the decorrelation, one for all "
         "pairs or one for each", FROM_0, "+"),
    Flag("--diva_decorrnet_dim", int, 512, "hidden width of the decorrelation networks", FROM_1),
    Flag("--diva_decorrnet_lr", float, 1e-5, "learning rate of decorrelation networks", ABOVE_0),
    Flag("--diva_moco_momentum", float, 0.9, "share of its weights that the key network keeps",
         SHARE),
    Flag("--diva_moco_temperature", float, 0.1, "temperature of selfsimilarity", ABOVE_0),
    Flag("--diva_moco_trainable_temp", bool, False, "learn the temperature"),
    Flag("--diva_moco_temp_lr", float, 5e-4, "learning rate of the temperature", ABOVE_0),
    Flag("--diva_moco_n_key_batches", int, 50, "batches of keys in the queue", FROM_1),
    Flag("--diva_moco_lower_cutoff", float, 0.5, "distance below which the weights of "
         "fast_moco's keys stay the same", FROM_0),
    Flag("--diva_moco_upper_cutoff", float, 1.4, "distance above which fast_moco gives keys no "
         "weight", ABOVE_0),
    Flag("--diva_dance", str, "released", "weights of fast_moco's keys: released: they multiply "
         "similarities and sum to 1 over the queries, as in the released code; fixed: for each "
         "query to 1 over the keys, as in the paper; weighted: they multiply exponentials and have "
         "the mean 1 for each query, so that the loss lives on at low temperatures", DANCES),
    Flag("--diva_fixed", bool, False, "the same as --diva_dance fixed"),
    Flag("--diva_instdiscr_temperature", float, 0.1, "temperature of invariantspread", ABOVE_0),
    Flag("--diva_dc_update_f", int, 2, "epochs between clusterings of dc", FROM_1),
    Flag("--diva_dc_ncluster", int, 300, "clusters of dc", Range(2)),
)

PAIR_LOSSES = (
    Flag("--loss", str, "margin", "criterion of the discriminative, ensemble, shared and intra "
         "features, or pml:<loss of pytorch-metric-learning>", criteria.LOSSES, guests=True),
    Flag("--pml_loss_args", dict, {}, "arguments of a pml: loss, as a JSON object; \"lr\" is "
         "the learning rate of its parameters"),
    Flag("--loss_margin_margin", float, 0.2, "margin: m, half the gap around the boundary", FROM_0),
    Flag("--loss_margin_beta", float, 1.2, "margin: initial boundary beta between positive and "
         "negative distances", FROM_0),
    Flag("--loss_margin_beta_lr", float, 5e-4, "margin: learning rate of beta", ABOVE_0),
    Flag("--loss_margin_beta_constant", bool, False, "margin: do not learn beta"),
    Flag("--loss_margin_nu", float, 0, "margin: weight of the sum of the triplets' betas", FROM_0),
    Flag("--loss_triplet_margin", float, 0.2, "triplet: margin between squared distances", FROM_0),
    Flag("--loss_contrastive_pos_margin", float, 0, "contrastive: distance below which positives "
         "cost nothing", FROM_0),
    Flag("--loss_contrastive_neg_margin", float, 1, "contrastive: distance above which negatives "
         "cost nothing", FROM_0),
    Flag("--loss_npair_l2", float, 0.005, "npair: weight of the mean embedding norm", FROM_0),
    Flag("--loss_angular_alpha", float, 36, "angular: upper bound of the angle at the negative, in "
         "degrees", Range(0, 89, above=True)),
    Flag("--loss_angular_npair_ang_weight", float, 2, "angular: weight of the angular term beside "
         "the npair term", FROM_0),
    Flag("--loss_angular_npair_l2", float, 0.005, "angular: weight of the mean embedding norm",
         FROM_0),
    Flag("--loss_lifted_neg_margin", float, 1, "lifted: margin m of negative distances", Range()),
    Flag("--loss_lifted_l2", float, 0.005, "lifted: weight of the mean embedding norm", FROM_0),
    Flag("--loss_multisimilarity_pos_weight", float, 2, "multisimilarity: sharpness w_p of the "
         "positive term", ABOVE_0),
    Flag("--loss_multisimilarity_neg_weight", float, 40, "multisimilarity: sharpness w_n of the "
         "negative term", ABOVE_0),
    Flag("--loss_multisimilarity_margin", float, 0.1, "multisimilarity: margin by which pairs are "
         "selected", FROM_0),
    Flag("--loss_multisimilarity_thresh", float, 0.5, "multisimilarity: similarity t that "
         "separates positives from negatives", Range()),
    Flag("--loss_histogram_nbins", int, 51, "histogram: nodes over similarities -1 to 1", Range(2)),
    Flag("--loss_quadruplet_margin_alpha_1", float, 0.2, "quadruplet: triplet term's margin",
         FROM_0),
    Flag("--loss_quadruplet_margin_alpha_2", float, 0.2, "quadruplet: margin of the term with the "
         "fourth member", FROM_0),
    Flag("--loss_snr_margin", float, 0.2, "snr: margin between the noise-to-signal ratios", FROM_0),
    Flag("--loss_snr_reg_lambda", float, 0.005, "snr: weight of the zero-mean regulariser, off "
         "with miners by distance", FROM_0),
    Flag("--loss_snr_beta", float, 0, "snr: initial boundary, one per class; 0: none", FROM_0),
    Flag("--loss_snr_beta_lr", float, 5e-4, "snr: learning rate of the boundary", ABOVE_0),
    Flag("--loss_binomial_pos_weight", float, 2, NO_EFFECT),
    Flag("--loss_binomial_neg_weight", float, 40, NO_EFFECT),
    Flag("--loss_binomial_margin", float, 0.1, NO_EFFECT),
    Flag("--loss_binomial_thresh", float, 0.5, NO_EFFECT),
    Flag("--loss_quadruplet_alpha1", float, 1, NO_EFFECT),
    Flag("--loss_quadruplet_alpha2", float, 0.5, NO_EFFECT),
)

PROXY_LOSSES = (
    Flag("--loss_softmax_lr", float, 1e-5, "softmax: learning rate of the class weights", ABOVE_0),
    Flag("--loss_softmax_temperature", float, 0.05, "softmax: temperature of the logits", ABOVE_0),
    Flag("--loss_arcface_lr", float, 5e-4, "arcface: learning rate of the class weights", ABOVE_0),
    Flag("--loss_arcface_angular_margin", float, 0.5, "arcface: margin m added to the label's "
         "angle, in radians", Range(0, math.pi)),
    Flag("--loss_arcface_feature_scale", float, 64, "arcface: scale of the logits", ABOVE_0),
    Flag("--loss_arcface_original", bool, False, "arcface: as in the original code, with the "
         "margin on every logit"),
    Flag("--loss_softtriplet_n_centroids", int, 10, "softtriplet: centroids per class", FROM_1),
    Flag("--loss_softtriplet_margin_delta", float, 0.01, "softtriplet: label's margin", FROM_0),
    Flag("--loss_softtriplet_gamma", float, 0.1, "softtriplet: smoothness of the choice among a "
         "class's centroids", ABOVE_0),
    Flag("--loss_softtriplet_lambda", float, 20, "softtriplet: scale of the logits", ABOVE_0),
    Flag("--loss_softtriplet_reg_weight", float, 0.2, "softtriplet: weight of the regulariser that "
         "pulls a class's centroids together", FROM_0),
    Flag("--loss_softtriplet_lr", float, 5e-4, "softtriplet: centroids' learning rate", ABOVE_0),
    Flag("--loss_softtriplet_original", bool, False, "softtriplet: as in the original code, with "
         "centroids normalised over the wrong axis"),
    Flag("--loss_proxynca_lr", float, 5e-4, "proxynca: learning rate of the proxies", ABOVE_0),
    Flag("--loss_oproxy_mode", str, "anchor", "oproxy: sums over the batch for each proxy (anchor) "
         "or over proxies for each sample (nca)", ("anchor", "nca")),
    Flag("--loss_oproxy_euclidean", bool, False, "oproxy: distances in place of similarities"),
    Flag("--loss_oproxy_lrmulti", float, 2000, "oproxy: learning rate of the proxies, as a "
         "multiple of --lr", ABOVE_0),
    Flag("--loss_oproxy_pos_alpha", float, 32, "oproxy: sharpness of the positive term", ABOVE_0),
    Flag("--loss_oproxy_neg_alpha", float, 32, "oproxy: sharpness of the negative term", ABOVE_0),
    Flag("--loss_oproxy_pos_delta", float, 0.1, "oproxy: offset of the positive term", Range()),
    Flag("--loss_oproxy_neg_delta", float, -0.1, "oproxy: offset of the negative term", Range()),
)

EVALUATION = (
    Flag("--evaluation_metrics", str,
         ["e_recall@1", "e_recall@2", "e_recall@4", "nmi", "f1", "mAP_c"], "metrics after each "
         "epoch; @ is followed by a number (of neighbours for the recalls), dists@ by intra, inter "
         "or intra_over_inter; online_products and in-shop have other defaults "
         f"[{', '.join(m + '@' * (m in metrics.ARGUMENTS) for m in metrics.METRICS)}]", None, "+"),
    Flag("--evaltypes", str, ["discriminative"], "embeddings to evaluate: a feature, "
         "Combined_<feature>_<feature>...[-<weight>-<weight>...] (weighted concatenation), Sum_... "
         "(weighted sum), or all (the published combinations of all features), the default if "
         "discriminative is not trained", None, "+"),
    Flag("--storage_metrics", str, ["e_recall@1"], "metrics by which the best checkpoint of each "
         "evaltype is kept", None, "+"),
    Flag("--train_metrics", bool, False, "also evaluate on the training classes"),
    Flag("--evaluate_on_gpu", bool, False, "compute the metrics on the GPU; the default where the "
         "network is on one"),
    Flag("--evaluate_on_cpu", bool, False, "compute the metrics on the CPU, to save GPU memory"),
    Flag("--evaluate_every", int, 1, "epochs between evaluations; the first and the last epoch are "
         "always evaluated", FROM_1),
    Flag("--cluster_every", int, 1, "epochs between the metrics that need k-means, which come with "
         "an evaluation", FROM_1),
    Flag("--all_classes", bool, False, "with --evaluate_only: measure all images of all classes as "
         "one split, also those of training"),
    Flag("--results", str, None, "with --evaluate_only: new JSON file for what was measured"),
    Flag("--per_class", str, None, "with --evaluate_only: new CSV file for each class's images, "
         "recall, R-precision and the class for which it is most often taken"),
)

LOGGING = (
    Flag("--save_path", str, working_directory() + "/Training_Results", "folder for results: "
         "<save_path>/<dataset>/<savename>"),
    Flag("--save_every", int, 1, "epochs between writes of checkpoint_last; the last whole epoch "
         "is also written at an interrupt, an error and the end", FROM_1),
    Flag("--savename", str, "group_plus_seed", "name of the run and its folder; group_plus_seed: "
         "<group>_s<seed>"),
    Flag("--plots", str, "end", "when to draw the progression plots and the pictures of the best "
         "epoch: retrievals, distances, a map", ("none", "end", "epoch")),
    Flag("--map", str, "pca", "how the embeddings of the map, of at most 2,000 images, get two "
         "dimensions: pca, or tsne, which takes some seconds", ("pca", "tsne")),
    Flag("--log_every", int, 20, "steps between reads of the losses from the device, which end the "
         "run if one is not finite", FROM_1),
    Flag("--log_online", bool, False, "log to Weights & Biases"),
    Flag("--wandb_key", str, NO_KEY, "API key of Weights & Biases, if it is neither in the "
         "environment nor in `wandb login`; never stored"),
    Flag("--wandb_mode", str, "online", "with --log_online: online, or offline for `wandb sync` "
         "later", ("online", "offline")),
    Flag("--wandb_entity", str, None, "user or team of Weights & Biases"),
    Flag("--project", str, "DiVA_Sample_Runs", "project of Weights & Biases"),
    Flag("--group", str, "Sample_Run", "group of runs that differ in the seed"),
)

# Title of the help, with the folder where the flags act -> its flags.
GROUPS = {
    "training (diva_main.py)": TRAINING,
    "data (datasets/)": DATASETS,
    "network (architectures/)": ARCHITECTURES,
    "batches (datasampler/)": DATASAMPLER,
    "miners (batchminer/)": BATCHMINER,
    "DiVA's features (criteria/)": DIVA,
    "ranking losses (criteria/)": PAIR_LOSSES,
    "proxy and classification losses (criteria/)": PROXY_LOSSES,
    "evaluation (evaluation/, metrics/)": EVALUATION,
    "output (utilities/)": LOGGING,
}
FLAGS = options.by_name(GROUPS)

# Options that may change on --resume.
MAY_CHANGE = ("n_epochs", "kernels", "device", "gpu", "evaluate_on_gpu", "evaluate_on_cpu",
              "source_path", "skip_broken_images", "plots", "map", "save_every", "wandb_key",
              "wandb_mode")
# Options that --evaluate_only takes from the command line, not from the checkpoint's run.
OF_THE_MACHINE = ("device", "gpu", "kernels", "cache", "precision", "channels_last", "compile",
                  "deterministic", "evaluate_on_gpu", "evaluate_on_cpu")
# Options that follow from others where they are not given.
FOLLOW = {"crop_size": ("augmentation",), "resize": ("augmentation", "crop_size"),
          "evaluation_metrics": ("dataset",)}
# Options that only some values of another option read.
READERS = {"tau": ("scheduler", ("step",)), "gamma": ("scheduler", ("step", "exp")),
           "diva_dance": ("diva_ssl", ("fast_moco",)), "diva_fixed": ("diva_ssl", ("fast_moco",))}
# Switches that stand for a value of another option.
SHORTHANDS = (("use_sgd", "optim", "sgd"), ("diva_fixed", "diva_dance", "fixed"))
# Options of which only one may be given.
EXCLUSIVE = (("check_data", "evaluate_only"), ("weights_path", "not_pretrained"),
             ("evaluate_on_gpu", "evaluate_on_cpu"),
             ("data_storage_no_update", "data_idx_full_prec"))


def read_arguments(argv: Sequence[str] | None = None) -> Namespace:
    """The options of the command line `argv` (sys.argv's when None), validated and resolved.

    `.given` holds the sorted names of the options that the user gave. A mistake is printed in one
    line on stderr and ends the program with status 2.
    """
    try:
        opt = parse(sys.argv[1:] if argv is None else argv)
        given = opt.given
        if not os.path.isabs(working_directory()):      # torch would not load, either
            refuse("working directory", "it was deleted", "a folder that exists, by cd")
        if opt.resume is not None:
            opt = resumed(opt)
        elif opt.evaluate_only and opt.checkpoint is not None:
            opt = evaluated(opt)
        opt = resolve(opt)
        _check_environment(opt, given)
    except UserError as error:
        tell(PROGRAM, error)
        raise SystemExit(2) from None
    for warning in _warnings(opt, given):
        print(f"{PROGRAM}: warning: {warning}", file=sys.stderr)
    return opt


def _warnings(opt: Namespace, given: Sequence[str]) -> list[str]:
    """Warnings about given options that have no effect."""
    warnings = []
    if ignored := [f"--{name}" for name in given if FLAGS[name].help.startswith(NO_EFFECT)]:
        warnings.append(f"{', '.join(ignored)}: {NO_EFFECT}")
    if "batch_mining" in given and opt.loss in criteria.LOSSES and opt.loss not in criteria.TAKES:
        warnings.append(f"--batch_mining: {opt.batch_mining!r} given, but --loss {opt.loss} mines "
                        "no tuples; no effect")
    for name, (other, readers) in READERS.items():
        if name in given and getattr(opt, other) not in readers:
            warnings.append(f"--{name}: {_given(opt, name)}, but --{other} {getattr(opt, other)} "
                            "does not read it; no effect")
    return warnings


def _given(opt: Namespace, name: str) -> str:
    """How messages say that the option `name` was given: with its value where it takes one."""
    value = getattr(opt, name)
    return "given" if value is True else f"{show(value)} given"


def _check_environment(opt: Namespace, given: Sequence[str]) -> None:
    mode = os.environ.get("WANDB_MODE", WANDB_MODES[0])
    if opt.log_online and mode not in WANDB_MODES:
        refuse("WANDB_MODE", f"{mode!r} in the environment", ", ".join(WANDB_MODES))
    if environment.by_torchrun() and "gpu" in given:
        refuse("--gpu", f"{show(opt.gpu)} given to a process of torchrun, which numbers the GPUs",
               "CUDA_VISIBLE_DEVICES in front of torchrun")
    n = environment.n_processes()
    if opt.bs % (2 * n) and n > 1 and not (opt.evaluate_only or opt.check_data):
        refuse("--bs", f"{opt.bs} images given, of which {n} processes cannot take equal halves",
               f"a multiple of {2 * n}, such as {max(2 * n, opt.bs // (2 * n) * 2 * n)}")


def parse(argv: Sequence[str]) -> Namespace:
    """The command line as given, with `.given`, before any option is checked."""
    return options.parse(argv, PROGRAM, DESCRIPTION, GROUPS)


def resolve(opt: Namespace) -> Namespace:
    """A new Namespace with all options derived and checked; UserError for a mistake.

    Resolving resolved options changes nothing.
    """
    opt = Namespace(**{name: copy.copy(value) for name, value in vars(opt).items()})
    for name, flag in FLAGS.items():
        flag.check(getattr(opt, name))
    for settle in (_settle_modes, _check_epochs, _check_device, _settle_data, _settle_image_size,
                   _settle_batch_mining, _check_features, _settle_decorrelations, _check_sampler,
                   _check_batches, _check_cutoffs, _check_guests, _settle_evaluation,
                   _settle_output):
        settle(opt)
    return opt


def public(opt: Namespace) -> dict[str, Any]:
    """The options as plain types for JSON, without the key, which must not be stored."""
    return {name: value for name, value in vars(opt).items() if name != "wandb_key"}


def resumed(opt: Namespace) -> Namespace:
    """The options of the run in the folder `opt.resume`, with what may change taken from `opt`.

    UserError for a given flag that differs from the run's and may not, and for a folder without
    readable options.
    """
    folder = Path(os.path.expanduser(opt.resume))
    stored = options.read_stored(folder / options.OPTIONS_FILE, FLAGS, flag="--resume")
    run = Namespace(**stored)
    for name in opt.given:
        value = getattr(opt, name)
        if name in MAY_CHANGE or name == "resume" or _means_the_same(run, name, value):
            continue
        raise UserError(f"--{name}: {show(value)} given, but the run in {opt.resume!r} has "
                        f"{show(stored[name])}; on resume may change: "
                        + ", ".join(f"--{name}" for name in MAY_CHANGE))
    changed = {name: getattr(opt, name) for name in opt.given if name in MAY_CHANGE}
    if run.scheduler == "cosine" and changed.get("n_epochs", run.n_epochs) != run.n_epochs:
        refuse("--n_epochs", f"{opt.n_epochs} given, but learning rates of the run in "
               f"{opt.resume!r} fall by --scheduler cosine over {run.n_epochs} epochs",
               f"{run.n_epochs}, or a new run")
    if ("skip_broken_images" in changed and not run.skip_broken_images
            and criteria.needs(run.diva_features, "numbered images")):
        refuse("--skip_broken_images", "given on resume, but --diva_features "
               f"{' '.join(run.diva_features)} keeps a cluster of each image",
               "the same files as before")
    if "evaluate_on_cpu" in changed or changed.get("device") == "cpu":
        changed.setdefault("evaluate_on_gpu", False)
    if changed.get("evaluate_on_gpu"):
        changed.setdefault("evaluate_on_cpu", False)
    given = sorted({*run.given, *changed, "resume"})
    return Namespace(**{**stored, **changed, "resume": opt.resume, "given": given})


def evaluated(opt: Namespace) -> Namespace:
    """The options of the run in whose folder `opt.checkpoint` lies, elsewhere those in the file,
    except those that the user gave, that follow from given ones, or that concern the machine, which
    are from `opt`; `opt` itself where there are none.

    UserError for a given option that describes another network, or splits that --all_classes does
    not have.
    """
    for name in ("train_metrics", "train_val_split", "train_val_split_by_class", "val_folds",
                 "val_fold"):
        if opt.all_classes and name in opt.given:
            refuse(f"--{name}", "given with --all_classes, which measures one split of all images",
                   "one of them")
    checkpoint = Path(os.path.expanduser(opt.checkpoint))
    beside = checkpoint.parent / options.OPTIONS_FILE
    if not fault(beside):
        stored = options.read_stored(beside, FLAGS, flag="--checkpoint")
    elif fault(checkpoint, "file"):
        return opt
    else:
        held = architectures.stored_options(checkpoint)
        stored = held and options.whole(held, FLAGS)
    if not stored:
        return opt
    follow = {name for name, sources in FOLLOW.items()
              if name not in stored["given"] and not {*sources}.isdisjoint(opt.given)}
    taken = {name: value for name, value in stored.items()
             if name not in (*opt.given, *follow, *OF_THE_MACHINE, "resume")}
    merged = Namespace(**{**vars(opt), **taken})
    merged.given = sorted({*opt.given, *(name for name in stored["given"] if name in taken)})
    architectures.check_options(merged, stored)
    return merged


def _means_the_same(run: Namespace, name: str, value: Any) -> bool:
    """Whether setting the option `name` of `run`, as it is stored, to `value` changes nothing."""
    given = Namespace(**{**vars(run), name: value, "given": [*run.given, name]})
    try:
        return getattr(resolve(given), name) == getattr(resolve(run), name)
    except UserError:
        return False


def _settle_modes(opt: Namespace) -> None:
    if opt.evaluate_only and opt.checkpoint is None:
        refuse("--evaluate_only", "given without --checkpoint",
               "--evaluate_only --checkpoint <file>")
    if opt.checkpoint is not None and not opt.evaluate_only:
        refuse("--checkpoint", f"{opt.checkpoint!r} given without --evaluate_only",
               "--evaluate_only --checkpoint <file>, or --resume <run folder> to train on")
    for name in ("all_classes", "results", "per_class"):
        if getattr(opt, name) and not opt.evaluate_only:
            refuse(f"--{name}", f"{_given(opt, name)} without --evaluate_only",
                   "with --evaluate_only --checkpoint <file>")
    for name, other in EXCLUSIVE:
        if getattr(opt, name) and getattr(opt, other):
            refuse(f"--{name}", f"{_given(opt, name)} with --{other}", "one of them")
    for switch, name, value in SHORTHANDS:
        if getattr(opt, switch):
            if name in opt.given and (given := getattr(opt, name)) != value:
                refuse(f"--{switch}", f"given with --{name} {given}",
                       f"--{switch} or --{name} {value}")
            setattr(opt, name, value)
    opt.diva_fixed = opt.diva_dance == "fixed"


def _check_epochs(opt: Namespace) -> None:
    """What happens in the first epochs must fit into the run, also where a resume shortens it."""
    for name in ("warmup_epochs", "freeze_backbone"):
        n_first = getattr(opt, name)
        if n_first > opt.n_epochs and opt.resume is not None:
            refuse("--n_epochs", f"{opt.n_epochs} given, but the run in {opt.resume!r} has "
                   f"--{name} {n_first}", f"a whole number from {n_first} upwards")
        if n_first > opt.n_epochs:
            refuse(f"--{name}", f"{n_first} given, more than --n_epochs {opt.n_epochs}",
                   f"a whole number from 0 up to {opt.n_epochs}")


def _check_device(opt: Namespace) -> None:
    if len(opt.gpu) != 1:
        refuse("--gpu", f"{show(opt.gpu)} given", "one index, a run uses one GPU")
    if opt.device != "cpu":
        return
    if opt.precision == "fp16":
        refuse("--precision", "'fp16' given with --device cpu", "fp32, bf16")
    if opt.cache == "gpu":
        refuse("--cache", "'gpu' given with --device cpu", "none, ram")
    if opt.evaluate_on_gpu:
        refuse("--evaluate_on_gpu", "given with --device cpu", "--device auto, cuda")


def _settle_data(opt: Namespace) -> None:
    if "kernels" not in opt.given:
        opt.kernels = max(1, min(available_cores(), 16) // environment.n_local_processes())
    _check_file_name("--dataset", opt.dataset)
    for name in ("source_path", "save_path", "weights_path", "resume", "checkpoint", "results",
                 "per_class"):
        path = getattr(opt, name)
        if path == "":
            refuse(f"--{name}", "'' given", "a path")
        if path is not None:
            setattr(opt, name, os.path.abspath(os.path.expanduser(path)))
    if opt.per_class is not None and opt.per_class == opt.results:
        refuse("--per_class", f"{opt.per_class!r} given, as for --results", "another file")
    if opt.train_val_split_by_class and opt.train_val_split == 1:
        refuse("--train_val_split_by_class", "given with --train_val_split 1, which splits "
               "nothing", "with a share below 1")
    _check_folds(opt)


def _check_folds(opt: Namespace) -> None:
    folds, fold = opt.val_folds, opt.val_fold
    if (folds is None) != (fold is None):
        given, missing = ("val_folds", "val_fold") if fold is None else ("val_fold", "val_folds")
        refuse(f"--{given}", f"{getattr(opt, given)} given without --{missing}",
               "--val_folds <K> --val_fold <i>, with i from 0 to K - 1")
    if folds is None:
        return
    if fold >= folds:
        refuse("--val_fold", f"{fold} given with --val_folds {folds}",
               f"a whole number from 0 up to {folds - 1}")
    if opt.train_val_split < 1:
        refuse("--val_folds", f"{folds} given with --train_val_split {opt.train_val_split:g}",
               "one of them")


def _check_file_name(flag: str, name: str) -> None:
    if name in ("", ".", "..") or any(c in name for c in "/\\\0"):
        refuse(flag, f"{name!r} given", "a name without / and \\")


def _settle_image_size(opt: Namespace) -> None:
    usual = 256 if opt.augmentation == "big" else architectures.usual_crop(opt.arch)
    if opt.crop_size is None:
        opt.crop_size = usual
    if opt.resize is None:
        opt.resize = round(opt.crop_size * 256 / usual)
    if opt.crop_size > opt.resize:
        refuse("--crop_size", f"{opt.crop_size} exceeds --resize {opt.resize}", "at most --resize")


def _settle_batch_mining(opt: Namespace) -> None:
    """By default the miner that fits the loss; a given one must fit."""
    takes = criteria.TAKES.get(opt.loss)
    if "batch_mining" not in opt.given:
        opt.batch_mining = {"npairs": "npair", "sets": "lifted"}.get(takes, "distance")
    elif takes is not None and opt.batch_mining in batchminer.TUPLES:
        criteria.check_miner(opt.loss, opt.batch_mining, batchminer.TUPLES[opt.batch_mining])


def _check_features(opt: Namespace) -> None:
    features = opt.diva_features
    for name in features:
        if features.count(name) > 1:
            refuse("--diva_features", f"{name!r} given twice", "each feature once")
    tuples = [name for name in features if criteria.needs([name], "triplets")]
    if tuples and not opt.loss.startswith(GUEST) and criteria.TAKES.get(opt.loss) != "triplets":
        fitting = ", ".join(n for n, kind in criteria.TAKES.items() if kind == "triplets")
        refuse("--diva_features", f"{tuples[0]!r} needs a loss that takes triplets, not --loss "
               f"{opt.loss}", fitting)
    users = [("--diva_features", name) for name in features] + [("--loss", opt.loss)]
    if "selfsimilarity" in features:
        users.append(("--diva_ssl", opt.diva_ssl))
    for flag, name in users:
        if criteria.needs([name], "unit length") and not architectures.parse(opt.arch).normalize:
            refuse("--arch", f"{opt.arch!r} given, but {flag} {name} needs embeddings of unit "
                   "length", f"{opt.arch}_normalize, or another {flag}")
        if criteria.needs([name], "even batch") and opt.bs % 2:
            refuse("--bs", f"{opt.bs} given, but {name} halves the batch", "an even number")


# The paper's pairs. As in the original, other sets of features have none by default.
DECORRELATIONS = {
    frozenset(("discriminative", "selfsimilarity", "shared")): (
        "selfsimilarity-discriminative", "shared-discriminative", "shared-selfsimilarity"),
    frozenset(("discriminative", "selfsimilarity", "shared", "intra")): (
        "selfsimilarity-discriminative", "shared-discriminative", "intra-discriminative"),
}


def _settle_decorrelations(opt: Namespace) -> None:
    if "diva_decorrelations" not in opt.given:
        opt.diva_decorrelations = list(DECORRELATIONS.get(frozenset(opt.diva_features), ()))
    pairs, weights = opt.diva_decorrelations, opt.diva_rho_decorrelation
    for pair in pairs:
        _check_pair(pair, pairs, opt.diva_features)
    if len(weights) == 1:
        opt.diva_rho_decorrelation = weights * len(pairs)
    elif len(weights) != len(pairs):
        refuse("--diva_rho_decorrelation", f"{len(weights)} weights given for {len(pairs)} "
               f"pairs ({show(pairs)})", "one weight, or one for each pair")


def _check_pair(pair: str, pairs: Sequence[str], features: Sequence[str]) -> None:
    ends = pair.split("-")
    fitting = [name for name in features if not criteria.needs([name], "trunk alone")]
    if len(ends) != 2 or ends[0] == ends[1]:
        wrong = "is no pair of different features"
    elif unknown := [end for end in ends if end not in features]:
        wrong = f"names {unknown[0]!r}, which is not among --diva_features"
    elif idle := [end for end in ends if end not in fitting]:
        wrong = f"cannot work: the head of {idle[0]} gets no gradient"
    elif pairs.count(pair) > 1:
        wrong = "is given twice"
    else:
        return
    refuse("--diva_decorrelations", f"{pair!r} {wrong}",
           f"<source>-<target> of: {', '.join(fitting)}")


def _check_sampler(opt: Namespace) -> None:
    name, by_class = opt.data_sampler, opt.data_sampler in datasampler.BY_CLASS
    if by_class and opt.bs % opt.samples_per_class:
        refuse("--bs", f"{opt.bs} given, not divisible by --samples_per_class "
               f"{opt.samples_per_class}", "a multiple of it")
    if name == "random_semi_class" and opt.bs % 2:
        refuse("--bs", f"{opt.bs} given, but random_semi_class draws pairs", "an even number")
    if name in datasampler.STORAGE and opt.data_batchmatch_bigbs < opt.bs:
        refuse("--data_batchmatch_bigbs", f"{opt.data_batchmatch_bigbs} given, fewer than --bs "
               f"{opt.bs}", "at least --bs")
    if name == "criterion_batchmatch" and "discriminative" not in opt.diva_features:
        refuse("--data_sampler", "'criterion_batchmatch' compares by the discriminative "
               f"criterion, but --diva_features is {show(opt.diva_features)}",
               "with discriminative among them")


def _check_batches(opt: Namespace) -> None:
    """Batches must hold what features that are taught by labels compare. Whether guests compare the
    images of a batch is found out later; losses with proxies do not."""
    compares = opt.loss in criteria.TAKES or criteria.needs([opt.loss], "pairs")
    if opt.evaluate_only or not compares:
        return
    for name in opt.diva_features:
        if criteria.needs([name], "labels"):
            what = f"--loss {opt.loss}" if name == "discriminative" else f"--diva_features {name}"
            criteria.check_batches(opt, *criteria.fewest(name, opt), what)


def _check_cutoffs(opt: Namespace) -> None:
    """Lower cutoffs must lie below upper cutoffs where those are applied."""
    for prefix in ("miner_anticollapse_distance", "diva_moco"):
        low, high = (getattr(opt, f"{prefix}_{end}_cutoff") for end in ("lower", "upper"))
        if low >= high:
            refuse(f"--{prefix}_lower_cutoff", f"{low:g} is not below --{prefix}_upper_cutoff "
                   f"{high:g}", "a number below it")
    low, high = opt.miner_parametric_support_lim
    if low >= high:
        refuse("--miner_parametric_support_lim", f"{low:g} {high:g} given", "two rising numbers")


def _check_guests(opt: Namespace) -> None:
    for name, user in (("pml_loss_args", "loss"), ("pml_miner_args", "batch_mining")):
        if name in opt.given and not getattr(opt, user).startswith(GUEST):
            refuse(f"--{name}", f"given with --{user} {getattr(opt, user)}",
                   f"with --{user} pml:<ClassName>")


def _settle_evaluation(opt: Namespace) -> None:
    if "evaluation_metrics" not in opt.given and opt.dataset in datasets.METRICS:
        opt.evaluation_metrics = list(datasets.METRICS[opt.dataset])
    for flag in ("evaluation_metrics", "storage_metrics"):
        setattr(opt, flag, list(dict.fromkeys(getattr(opt, flag))))
        for name in getattr(opt, flag):
            metrics.parse(name, f"--{flag}")
    for name in opt.storage_metrics:
        if metrics.is_array(name):
            refuse("--storage_metrics", f"{name!r} is an array",
                   "any metric that is a number, e.g. e_recall@1")
        if not metrics.is_score(name):
            refuse("--storage_metrics", f"{name!r} is no score of which more is better",
                   "any other metric, e.g. e_recall@1")
    if "evaltypes" not in opt.given and "discriminative" not in opt.diva_features:
        opt.evaltypes = ["all"]
    opt.evaltypes = evaltypes.expand(opt.evaltypes, opt.diva_features, opt.dataset)
    narrowest = opt.embed_dim * min(evaltypes.n_heads(name, opt.diva_features)
                                    for name in opt.evaltypes)
    for name in (*opt.evaluation_metrics, *opt.storage_metrics):
        if metrics.n_singular_values(name) >= narrowest:
            refuse("--evaluation_metrics", f"{name!r} leaves no singular value of embeddings of "
                   f"{narrowest} dimensions", f"up to rho_spectrum@{narrowest - 1}")


def _settle_output(opt: Namespace) -> None:
    if opt.savename == "group_plus_seed":
        _check_file_name("--group", opt.group)
        opt.savename = f"{opt.group}_s{opt.seed}"
    _check_file_name("--savename", opt.savename)
    if opt.wandb_key == NO_KEY:
        opt.wandb_key = None
