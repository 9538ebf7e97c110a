"""Wrong command lines: each ends with status 2 and one exact line, before any work."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import batchminer
import criteria
import datasampler
import metrics
import parameters

NAMES = {
    "samplers": ", ".join(datasampler.SAMPLERS),
    "losses": ", ".join(criteria.LOSSES),
    "mining_losses": ", ".join(criteria.TAKES),
    "miners": ", ".join(batchminer.MINERS),
    "triplet_losses": ", ".join(n for n, k in criteria.TAKES.items() if k == "triplets"),
    "triplet_miners": ", ".join(n for n, k in batchminer.TUPLES.items() if k == "triplets"),
    "metrics": ", ".join(metrics.METRICS),
    "features": ", ".join(criteria.FEATURES),
}

LONG = "x" * 300    # longer than the name of any file

# Command line -> what stands behind "diva_main.py: error: ", with the registries' names as above.
WRONG = [
    ("--dataest cub200",
     "--dataest: unknown flag (did you mean --dataset?); accepted: the flags that --help lists"),
    ("--n_epoc=3 --n_epcohs 3",
     "--n_epcohs: unknown flag (did you mean --n_epochs?); accepted: the flags that --help lists"),
    ("--data x",
     "--data: ambiguous; accepted: --data_batchmatch_bigbs, --data_batchmatch_ncomps, "
     "--data_d2_coreset_lambda, --data_gc_coreset_lim, --data_gc_softened, --data_idx_full_prec, "
     "--data_mb_lr, --data_mb_mom, --data_sampler, --data_sampler_lowproj_dim, "
     "--data_sim_measure, --data_storage_no_update, --dataset"),
    ("--evaluate_on=1",
     "--evaluate_on: ambiguous; accepted: --evaluate_on_cpu, --evaluate_on_gpu, --evaluate_only"),
    ("--evaluate_on_gpu --evaluate_on_cpu",
     "--evaluate_on_gpu: given with --evaluate_on_cpu; accepted: one of them"),
    ("--save_every 0",
     "--save_every: 0 given; accepted: a whole number from 1 upwards"),
    ("--lr=",
     "--lr: invalid float value: ''; accepted: a number above 0"),
    ("--lrr=3",
     "--lrr: unknown flag (did you mean --lr?); accepted: the flags that --help lists"),
    ("cub200",
     "'cub200': no flag before it; accepted: --flag value, see --help"),
    ("--lr 1 2",
     "--lr: '2' is too much; accepted: a number above 0"),
    ("--lr=1 2",
     "--lr: '2' is too much; accepted: a number above 0"),
    ("--seed 2 --tau 2 3 --lr 1 2",
     "--lr: '2' is too much; accepted: a number above 0"),
    ("--lr 1 -2",
     "--lr: '-2' is too much; accepted: a number above 0"),
    ("--miner_parametric_support_lim 0 1 2",
     "--miner_parametric_support_lim: '2' is too much; accepted: 2 of: a number from 0 upwards"),
    ("--use_sgd 1",
     "--use_sgd: '1' is too much; accepted: the flag alone, without a value"),
    ("--use_sgd=1",
     "--use_sgd: ignored explicit argument '1'; accepted: the flag alone, without a value"),
    ("--lr",
     "--lr: expected one argument; accepted: a number above 0"),
    ("--tau",
     "--tau: expected at least one argument; accepted: one or more of: a whole number from 1 "
     "upwards"),
    ("--lr fast",
     "--lr: invalid float value: 'fast'; accepted: a number above 0"),
    ("--bs 11.5",
     "--bs: invalid int value: '11.5'; accepted: a whole number from 2 upwards"),
    ("--tau=[]",
     "--tau: expected at least one argument; accepted: one or more of: a whole number from 1 "
     "upwards"),
    ("--tau=[5,x]",
     "--tau: invalid int value: 'x'; accepted: one or more of: a whole number from 1 upwards"),
    ("--use_sgd=True",
     "--use_sgd: ignored explicit argument 'True'; accepted: the flag alone, without a value"),
    ("--tau 5 x",
     "--tau: invalid int value: 'x'; accepted: one or more of: a whole number from 1 upwards"),
    ("--miner_parametric_support_lim 1",
     "--miner_parametric_support_lim: expected 2 arguments; accepted: 2 of: a number from 0 "
     "upwards"),
    ("-x 3",
     "-x: unknown flag; accepted: the flags that --help lists"),
    ("--help=3",
     "-h/--help: ignored explicit argument '3'; accepted: the flag alone, without a value"),
    ("--dataset \"\"",
     "--dataset: '' given; accepted: a name without / and \\"),
    ("--dataset ../secret",
     "--dataset: '../secret' given; accepted: a name without / and \\"),
    ("--dataset ..",
     "--dataset: '..' given; accepted: a name without / and \\"),
    ("--savename a/b",
     "--savename: 'a/b' given; accepted: a name without / and \\"),
    ("--savename \"\"",
     "--savename: '' given; accepted: a name without / and \\"),
    ("--group a/b",
     "--group: 'a/b' given; accepted: a name without / and \\"),
    ("--source_path \"\"",
     "--source_path: '' given; accepted: a path"),
    ("--save_path \"\"",
     "--save_path: '' given; accepted: a path"),
    ("--seed -1",
     "--seed: -1 given; accepted: a whole number from 0 up to 4294967295"),
    ("--seed 4294967296",
     "--seed: 4294967296 given; accepted: a whole number from 0 up to 4294967295"),
    ("--n_epochs 0",
     "--n_epochs: 0 given; accepted: a whole number from 1 upwards"),
    ("--bs 0",
     "--bs: 0 given; accepted: a whole number from 2 upwards"),
    ("--bs 1",
     "--bs: 1 given; accepted: a whole number from 2 upwards"),
    ("--bs 111",
     "--bs: 111 given, not divisible by --samples_per_class 2; accepted: a multiple of it"),
    ("--bs 9 --samples_per_class 2 --data_sampler class_random_unique",
     "--bs: 9 given, not divisible by --samples_per_class 2; accepted: a multiple of it"),
    ("--bs 9 --data_sampler fid_batchmatch",
     "--bs: 9 given, not divisible by --samples_per_class 2; accepted: a multiple of it"),
    ("--bs 9 --data_sampler random_semi_class",
     "--bs: 9 given, but random_semi_class draws pairs; accepted: an even number"),
    ("--bs 9 --data_sampler random --diva_features discriminative invariantspread",
     "--bs: 9 given, but invariantspread halves the batch; accepted: an even number"),
    ("--samples_per_class 0",
     "--samples_per_class: 0 given; accepted: a whole number from 1 upwards"),
    ("--data_sampler class_randm",
     "--data_sampler: unknown 'class_randm' (did you mean 'class_random'?); accepted: {samplers}"),
    ("--data_sampler greedy_coreset --data_batchmatch_bigbs 64",
     "--data_batchmatch_bigbs: 64 given, fewer than --bs 112; accepted: at least --bs"),
    ("--data_sampler criterion_batchmatch --diva_features selfsimilarity --evaltypes "
     "selfsimilarity",
     "--data_sampler: 'criterion_batchmatch' compares by the discriminative criterion, but "
     "--diva_features is selfsimilarity; accepted: with discriminative among them"),
    ("--data_storage_no_update --data_idx_full_prec",
     "--data_storage_no_update: given with --data_idx_full_prec; accepted: one of them"),
    ("--data_mb_mom -0.5",
     "--data_mb_mom: -0.5 given; accepted: a number from 0 up to 1, or -1 (off)"),
    ("--data_mb_mom 1.5",
     "--data_mb_mom: 1.5 given; accepted: a number from 0 up to 1, or -1 (off)"),
    ("--data_sampler_lowproj_dim 0",
     "--data_sampler_lowproj_dim: 0 given; accepted: a whole number from 1 upwards, or -1 (off)"),
    ("--data_sim_measure manhattan",
     "--data_sim_measure: unknown 'manhattan'; accepted: euclidean, square, cosine"),
    ("--data_batchmatch_ncomps 0",
     "--data_batchmatch_ncomps: 0 given; accepted: a whole number from 1 upwards"),
    ("--lr 0",
     "--lr: 0 given; accepted: a number above 0"),
    ("--lr -1",
     "--lr: -1 given; accepted: a number above 0"),
    ("--lr nan",
     "--lr: nan given; accepted: a number above 0"),
    ("--lr inf",
     "--lr: inf given; accepted: a number above 0"),
    ("--fc_lr -2",
     "--fc_lr: -2 given; accepted: a number from 0 upwards, or -1 (off)"),
    ("--decay -0.1",
     "--decay: -0.1 given; accepted: a number from 0 upwards"),
    ("--gamma 0",
     "--gamma: 0 given; accepted: a number above 0"),
    ("--tau 0",
     "--tau: 0 given; accepted: one or more of: a whole number from 1 upwards"),
    ("--scheduler cosin",
     "--scheduler: unknown 'cosin' (did you mean 'cosine'?); accepted: step, exp, cosine, none"),
    ("--optim adamax",
     "--optim: unknown 'adamax' (did you mean 'adam'?); accepted: adam, adamw, sgd"),
    ("--use_sgd --optim adamw",
     "--use_sgd: given with --optim adamw; accepted: --use_sgd or --optim sgd"),
    ("--warmup_epochs -1",
     "--warmup_epochs: -1 given; accepted: a whole number from 0 upwards"),
    ("--warmup_epochs 0.5",
     "--warmup_epochs: invalid int value: '0.5'; accepted: a whole number from 0 upwards"),
    ("--n_epochs 5 --warmup_epochs 6",
     "--warmup_epochs: 6 given, more than --n_epochs 5; accepted: a whole number from 0 up to 5"),
    ("--n_epochs 5 --freeze_backbone 6",
     "--freeze_backbone: 6 given, more than --n_epochs 5; accepted: a whole number from 0 up to 5"),
    ("--freeze_backbone -1",
     "--freeze_backbone: -1 given; accepted: a whole number from 0 upwards"),
    ("--clip_grad -1",
     "--clip_grad: -1 given; accepted: a number from 0 upwards"),
    ("--clip_grad nan",
     "--clip_grad: nan given; accepted: a number from 0 upwards"),
    ("--ema 1",
     "--ema: 1 given; accepted: a number from 0 and below 1"),
    ("--ema -0.1",
     "--ema: -0.1 given; accepted: a number from 0 and below 1"),
    ("--evaluate_every 0",
     "--evaluate_every: 0 given; accepted: a whole number from 1 upwards"),
    ("--use_sgd --optim adam",
     "--use_sgd: given with --optim adam; accepted: --use_sgd or --optim sgd"),
    ("--kernels -1",
     "--kernels: -1 given; accepted: a whole number from 0 upwards"),
    ("--train_val_split 0",
     "--train_val_split: 0 given; accepted: a number above 0 up to 1"),
    ("--train_val_split 1.2",
     "--train_val_split: 1.2 given; accepted: a number above 0 up to 1"),
    ("--train_val_split_by_class",
     "--train_val_split_by_class: given with --train_val_split 1, which splits nothing; "
     "accepted: with a share below 1"),
    ("--val_folds 1 --val_fold 0",
     "--val_folds: 1 given; accepted: a whole number from 2 upwards"),
    ("--val_folds 4 --val_fold -1",
     "--val_fold: -1 given; accepted: a whole number from 0 upwards"),
    ("--val_folds 4 --val_fold 4",
     "--val_fold: 4 given with --val_folds 4; accepted: a whole number from 0 up to 3"),
    ("--val_folds 4",
     "--val_folds: 4 given without --val_fold; accepted: --val_folds <K> --val_fold <i>, with i "
     "from 0 to K - 1"),
    ("--val_fold 0",
     "--val_fold: 0 given without --val_folds; accepted: --val_folds <K> --val_fold <i>, with i "
     "from 0 to K - 1"),
    ("--val_folds 4 --val_fold 0 --train_val_split 0.8",
     "--val_folds: 4 given with --train_val_split 0.8; accepted: one of them"),
    ("--val_folds 4 --val_fold 0 --train_val_split_by_class",
     "--train_val_split_by_class: given with --train_val_split 1, which splits nothing; "
     "accepted: with a share below 1"),
    ("--evaluate_only --checkpoint c.pth.tar --all_classes --val_folds 4 --val_fold 0",
     "--val_folds: given with --all_classes, which measures one split of all images; accepted: "
     "one of them"),
    ("--augmentation strong",
     "--augmentation: unknown 'strong'; accepted: base, adv, big, red"),
    ("--crop_size 0",
     "--crop_size: 0 given; accepted: a whole number from 1 upwards"),
    ("--crop_size 300 --resize 256",
     "--crop_size: 300 exceeds --resize 256; accepted: at most --resize"),
    ("--resize 200",
     "--crop_size: 224 exceeds --resize 200; accepted: at most --resize"),
    ("--cache disk",
     "--cache: unknown 'disk'; accepted: none, ram, gpu"),
    ("--cache gpu --device cpu",
     "--cache: 'gpu' given with --device cpu; accepted: none, ram"),
    ("--device tpu",
     "--device: unknown 'tpu' (did you mean 'cpu'?); accepted: auto, cuda, cpu"),
    ("--precision fp8",
     "--precision: unknown 'fp8'; accepted: fp32, bf16, fp16"),
    ("--precision fp16 --device cpu",
     "--precision: 'fp16' given with --device cpu; accepted: fp32, bf16"),
    ("--evaluate_on_gpu --device cpu",
     "--evaluate_on_gpu: given with --device cpu; accepted: --device auto, cuda"),
    ("--gpu 0 1",
     "--gpu: 0 1 given; accepted: one index, a run uses one GPU"),
    ("--gpu -1",
     "--gpu: -1 given; accepted: one or more of: a whole number from 0 upwards"),
    ("--arch \"\"",
     "--arch: cannot read ''; accepted: a backbone's name, then at most once each _frozen and "
     "_normalize, e.g. resnet50_frozen_normalize"),
    ("--arch timm:vit/small",
     "--arch: cannot read 'timm:vit/small'; accepted: a backbone's name, then at most once each "
     "_frozen and _normalize, e.g. resnet50_frozen_normalize"),
    ("--arch frozen_normalize",
     "--arch: cannot read 'frozen_normalize'; accepted: a backbone's name, then at most once "
     "each _frozen and _normalize, e.g. resnet50_frozen_normalize"),
    ("--arch resnet50_frozen_frozen",
     "--arch: cannot read 'resnet50_frozen_frozen'; accepted: a backbone's name, then at most "
     "once each _frozen and _normalize, e.g. resnet50_frozen_normalize"),
    ("--embed_dim 1",
     "--embed_dim: 1 given; accepted: a whole number from 2 upwards"),
    ("--not_pretrained --weights_path w.pth",
     "--weights_path: 'w.pth' given with --not_pretrained; accepted: one of them"),
    ("--weights_path \"\"",
     "--weights_path: '' given; accepted: a path"),
    ("--loss margn",
     "--loss: unknown 'margn' (did you mean 'margin'?); accepted: {losses}"),
    ("--loss moco",
     "--loss: unknown 'moco'; accepted: {losses}"),
    ("--loss pml:",
     "--loss: 'pml:' names no class; accepted: pml:<ClassName>, or {losses}"),
    ("--loss pml:a.b",
     "--loss: 'pml:a.b' names no class; accepted: pml:<ClassName>, or {losses}"),
    ("--batch_mining distnce",
     "--batch_mining: unknown 'distnce' (did you mean 'distance'?); accepted: {miners}"),
    ("--batch_mining npair",
     "--batch_mining: 'npair' gives npairs, but --loss margin takes triplets; accepted: "
     "{triplet_miners}"),
    ("--loss npair --batch_mining distance",
     "--batch_mining: 'distance' gives triplets, but --loss npair takes npairs; accepted: npair"),
    ("--loss lifted --batch_mining npair",
     "--batch_mining: 'npair' gives npairs, but --loss lifted takes sets; accepted: lifted"),
    ("--batch_mining pml:1",
     "--batch_mining: 'pml:1' names no class; accepted: pml:<ClassName>, or {miners}"),
    ("--pml_loss_args {}",
     "--pml_loss_args: given with --loss margin; accepted: with --loss pml:<ClassName>"),
    ("--loss pml:NCALoss --pml_loss_args 5",
     "--pml_loss_args: cannot read '5'; accepted: a JSON object, e.g. '{{\"margin\": 0.1}}'"),
    ("--loss pml:NCALoss --pml_loss_args {a:1}",
     "--pml_loss_args: cannot read '{{a:1}}'; accepted: a JSON object, e.g. '{{\"margin\": 0.1}}'"),
    ("--pml_miner_args {}",
     "--pml_miner_args: given with --batch_mining distance; accepted: with --batch_mining "
     "pml:<ClassName>"),
    ("--grad_cache_chunk -1",
     "--grad_cache_chunk: -1 given; accepted: a whole number from 0 upwards"),
    ("--grad_cache_chunk half",
     "--grad_cache_chunk: invalid int value: 'half'; accepted: a whole number from 0 upwards"),
    ("--diva_features intra --loss contrastive --samples_per_class 1",
     "--samples_per_class: 1 given, but --diva_features intra compares images of one class; "
     "accepted: at least 2"),
    ("--data_sampler random_semi_class --bs 2 --loss snr",
     "--bs: 2 given, but no batch of --data_sampler random_semi_class then holds 2 classes and two "
     "images of one, which --loss snr compares; accepted: a larger one"),
    ("--diva_features discriminative colour",
     "--diva_features: unknown 'colour'; accepted: {features}"),
    ("--diva_features discriminative shared shared",
     "--diva_features: 'shared' given twice; accepted: each feature once"),
    ("--diva_features discriminative shared --loss softmax",
     "--diva_features: 'shared' needs a loss that takes triplets, not --loss softmax; accepted: "
     "{triplet_losses}"),
    ("--diva_features intra --loss npair --evaltypes all",
     "--diva_features: 'intra' needs a loss that takes triplets, not --loss npair; accepted: "
     "{triplet_losses}"),
    ("--diva_features discriminative selfsimilarity --arch resnet50_frozen",
     "--arch: 'resnet50_frozen' given, but --diva_ssl fast_moco needs embeddings of unit length; "
     "accepted: resnet50_frozen_normalize, or another --diva_ssl"),
    ("--diva_features shared --evaltypes discriminative",
     "--evaltypes: 'discriminative' is not among --diva_features; accepted: all, shared, and "
     "Combined_ or Sum_ of these, joined by _, with weights -<w>-<w>... behind"),
    ("--diva_ssl simclr",
     "--diva_ssl: unknown 'simclr'; accepted: fast_moco, moco"),
    ("--diva_dance paper",
     "--diva_dance: unknown 'paper'; accepted: released, fixed, weighted"),
    ("--diva_dance weighted --diva_fixed",
     "--diva_fixed: given with --diva_dance weighted; accepted: --diva_fixed or --diva_dance "
     "fixed"),
    ("--diva_fixed --diva_dance released",
     "--diva_fixed: given with --diva_dance released; accepted: --diva_fixed or --diva_dance "
     "fixed"),
    ("--diva_sharing some",
     "--diva_sharing: unknown 'some'; accepted: random, standard, full"),
    ("--diva_intra full",
     "--diva_intra: unknown 'full'; accepted: random"),
    ("--diva_decorrelations shared-discriminative",
     "--diva_decorrelations: 'shared-discriminative' names 'shared', which is not among "
     "--diva_features; accepted: <source>-<target> of: discriminative"),
    ("--diva_features discriminative shared --diva_decorrelations shared",
     "--diva_decorrelations: 'shared' is no pair of different features; accepted: "
     "<source>-<target> of: discriminative, shared"),
    ("--diva_features discriminative shared --diva_decorrelations shared-shared",
     "--diva_decorrelations: 'shared-shared' is no pair of different features; accepted: "
     "<source>-<target> of: discriminative, shared"),
    ("--diva_features discriminative shared --diva_decorrelations shared-discriminative "
     "shared-discriminative",
     "--diva_decorrelations: 'shared-discriminative' is given twice; accepted: <source>-<target> "
     "of: discriminative, shared"),
    ("--diva_features discriminative dc --diva_decorrelations dc-discriminative",
     "--diva_decorrelations: 'dc-discriminative' cannot work: the head of dc gets no gradient; "
     "accepted: <source>-<target> of: discriminative"),
    ("--diva_features discriminative imrot --diva_decorrelations discriminative-imrot",
     "--diva_decorrelations: 'discriminative-imrot' cannot work: the head of imrot gets no "
     "gradient; accepted: <source>-<target> of: discriminative"),
    ("--diva_features discriminative shared --diva_rho_decorrelation 1 2",
     "--diva_rho_decorrelation: 2 weights given for 0 pairs (none); accepted: one weight, or one "
     "for each pair"),
    ("--diva_features discriminative selfsimilarity shared --diva_rho_decorrelation 1 2",
     "--diva_rho_decorrelation: 2 weights given for 3 pairs (selfsimilarity-discriminative "
     "shared-discriminative shared-selfsimilarity); accepted: one weight, or one for each pair"),
    ("--diva_rho_decorrelation -1",
     "--diva_rho_decorrelation: -1 given; accepted: one or more of: a number from 0 upwards"),
    ("--diva_alpha_ssl -0.3",
     "--diva_alpha_ssl: -0.3 given; accepted: a number from 0 upwards"),
    ("--diva_moco_momentum 1.1",
     "--diva_moco_momentum: 1.1 given; accepted: a number from 0 up to 1"),
    ("--diva_moco_temperature 0",
     "--diva_moco_temperature: 0 given; accepted: a number above 0"),
    ("--diva_moco_n_key_batches 0",
     "--diva_moco_n_key_batches: 0 given; accepted: a whole number from 1 upwards"),
    ("--diva_moco_lower_cutoff 1.5",
     "--diva_moco_lower_cutoff: 1.5 is not below --diva_moco_upper_cutoff 1.4; accepted: a "
     "number below it"),
    ("--diva_dc_update_f 0",
     "--diva_dc_update_f: 0 given; accepted: a whole number from 1 upwards"),
    ("--diva_dc_ncluster 1",
     "--diva_dc_ncluster: 1 given; accepted: a whole number from 2 upwards"),
    ("--diva_instdiscr_temperature 0",
     "--diva_instdiscr_temperature: 0 given; accepted: a number above 0"),
    ("--miner_anticollapse_distance_lower_cutoff 1.4",
     "--miner_anticollapse_distance_lower_cutoff: 1.4 is not below "
     "--miner_anticollapse_distance_upper_cutoff 1.4; "
     "accepted: a number below it"),
    ("--miner_rho_distance_cp 2",
     "--miner_rho_distance_cp: 2 given; accepted: a number from 0 up to 1"),
    ("--miner_parametric_mode hard",
     "--miner_parametric_mode: unknown 'hard' (did you mean 'hards'?); accepted: uniform, hards, "
     "semihards, veryhards"),
    ("--miner_parametric_n_support 1",
     "--miner_parametric_n_support: 1 given; accepted: a whole number from 2 upwards"),
    ("--miner_parametric_support_lim 1 1",
     "--miner_parametric_support_lim: 1 1 given; accepted: two rising numbers"),
    ("--loss_margin_beta_lr 0",
     "--loss_margin_beta_lr: 0 given; accepted: a number above 0"),
    ("--loss_oproxy_mode proxy",
     "--loss_oproxy_mode: unknown 'proxy'; accepted: anchor, nca"),
    ("--loss_arcface_angular_margin 4",
     "--loss_arcface_angular_margin: 4 given; accepted: a number from 0 up to 3.141592654"),
    ("--evaluation_metrics e_recal@1",
     "--evaluation_metrics: unknown 'e_recal' (did you mean 'e_recall'?); accepted: {metrics}"),
    ("--evaluation_metrics e_recall",
     "--evaluation_metrics: 'e_recall' is no metric; accepted: e_recall@ and a "
     "positive whole number below 1e9"),
    ("--evaluation_metrics e_recall@1000000000",
     "--evaluation_metrics: 'e_recall@1000000000' is no metric; accepted: e_recall@ and a "
     "positive whole number below 1e9"),
    (f"--n_epochs {10**400}",
     f"--n_epochs: {10**400} given; accepted: a whole number up to 2147483647"),
    (f"--diva_features shared dc --evaltypes Sum_shared_dc-1-{10**400}",
     f"--evaltypes: 'Sum_shared_dc-1-{10**400}' has the weight '{10**400}'; accepted: positive "
     "numbers such as 0.75"),
    ("--evaluation_metrics e_recall@0",
     "--evaluation_metrics: 'e_recall@0' is no metric; accepted: e_recall@ and a "
     "positive whole number below 1e9"),
    ("--evaluation_metrics nmi@3",
     "--evaluation_metrics: 'nmi@3': nmi takes nothing behind an @; accepted: nmi"),
    ("--storage_metrics recall",
     "--storage_metrics: unknown 'recall' (did you mean 'e_recall'?); accepted: {metrics}"),
    ("--storage_metrics rho_spectrum@0",
     "--storage_metrics: 'rho_spectrum@0' is an array; accepted: any metric that is a number, "
     "e.g. e_recall@1"),
    ("--storage_metrics dists@intra",
     "--storage_metrics: 'dists@intra' is no score of which more is better; accepted: any other "
     "metric, e.g. e_recall@1"),
    ("--evaluation_metrics rho_spectrum@-128",
     "--evaluation_metrics: 'rho_spectrum@-128' leaves no singular value of embeddings of 128 "
     "dimensions; accepted: up to rho_spectrum@127"),
    ("--bs 16 --samples_per_class 16",
     "--bs: 16 given, but no batch of --data_sampler class_random then holds 2 classes and two "
     "images of one, which --loss margin compares; accepted: a larger one or a smaller "
     "--samples_per_class"),
    ("--bs 16 --samples_per_class 16 --loss multisimilarity",
     "--bs: 16 given, but no batch of --data_sampler class_random then holds 2 classes and two "
     "images of one, which --loss multisimilarity compares; accepted: a larger one or a smaller "
     "--samples_per_class"),
    ("--bs 8 --samples_per_class 4 --diva_features discriminative invariantspread",
     "--bs: 8 given, but no batch of --data_sampler class_random then holds 2 classes, which "
     "--loss margin compares; accepted: a larger one or a smaller --samples_per_class"),
    ("--bs 8 --samples_per_class 4 --diva_features discriminative shared --diva_sharing standard",
     "--bs: 8 given, but no batch of --data_sampler class_random then holds 3 classes, which "
     "--diva_features shared compares; accepted: a larger one or a smaller --samples_per_class"),
    ("--bs 2 --data_sampler random",
     "--bs: 2 given, but no batch of --data_sampler random then holds 2 classes and two images of "
     "one, which --loss margin compares; accepted: a larger one"),
    ("--bs 2 --data_sampler random_semi_class --loss lifted",
     "--bs: 2 given, but no batch of --data_sampler random_semi_class then holds 2 classes and "
     "two images of one, which --loss lifted compares; accepted: a larger one"),
    ("--samples_per_class 1",
     "--samples_per_class: 1 given, but --loss margin compares images of one class; accepted: at "
     "least 2"),
    ("--samples_per_class 1 --loss npair --data_sampler class_random_unique",
     "--samples_per_class: 1 given, but --loss npair compares images of one class; accepted: at "
     "least 2"),
    ("--samples_per_class 1 --loss multisimilarity --data_sampler fid_batchmatch",
     "--samples_per_class: 1 given, but --loss multisimilarity compares images of one class; "
     "accepted: at least 2"),
    ("--samples_per_class 1 --loss histogram",
     "--samples_per_class: 1 given, but --loss histogram compares images of one class; accepted: "
     "at least 2"),
    ("--samples_per_class 1 --diva_features selfsimilarity intra",
     "--samples_per_class: 1 given, but --diva_features intra compares images of one class; "
     "accepted: at least 2"),
    ("--loss histogram --arch resnet50_frozen",
     "--arch: 'resnet50_frozen' given, but --loss histogram needs embeddings of unit length; "
     "accepted: resnet50_frozen_normalize, or another --loss"),
    ("--evaltypes Combined",
     "--evaltypes: 'Combined' names '', which is not among --diva_features; accepted: all, "
     "discriminative, and Combined_ or Sum_ of these, joined by _, with weights -<w>-<w>... "
     "behind"),
    ("--evaltypes selfsimilarity",
     "--evaltypes: 'selfsimilarity' is not among --diva_features; accepted: all, discriminative, "
     "and Combined_ or Sum_ of these, joined by _, with weights -<w>-<w>... behind"),
    ("--evaltypes Combined_discriminative_dc",
     "--evaltypes: 'Combined_discriminative_dc' names 'dc', which is not among --diva_features; "
     "accepted: all, discriminative, and Combined_ or Sum_ of these, joined by _, with weights "
     "-<w>-<w>... behind"),
    ("--diva_features discriminative shared --evaltypes Combined_discriminative_shared-1",
     "--evaltypes: 'Combined_discriminative_shared-1' gives the weights 1; accepted: one for "
     "each of its 2 features, or none"),
    ("--diva_features discriminative shared --evaltypes Sum_discriminative_shared-1-x",
     "--evaltypes: 'Sum_discriminative_shared-1-x' has the weight 'x'; accepted: positive "
     "numbers such as 0.75"),
    ("--diva_features discriminative shared --evaltypes Sum_shared",
     "--evaltypes: 'Sum_shared' given; accepted: two or more different features behind Sum_"),
    ("--cluster_every 0",
     "--cluster_every: 0 given; accepted: a whole number from 1 upwards"),
    ("--log_every 0",
     "--log_every: 0 given; accepted: a whole number from 1 upwards"),
    ("--plots daily",
     "--plots: unknown 'daily'; accepted: none, end, epoch"),
    ("--map umap", "--map: unknown 'umap'; accepted: pca, tsne"),
    ("--wandb_mode disabled",
     "--wandb_mode: unknown 'disabled'; accepted: online, offline"),
    ("--results r.json",
     "--results: 'r.json' given without --evaluate_only; accepted: with --evaluate_only "
     "--checkpoint <file>"),
    ("--per_class c.csv",
     "--per_class: 'c.csv' given without --evaluate_only; accepted: with --evaluate_only "
     "--checkpoint <file>"),
    ("--all_classes",
     "--all_classes: given without --evaluate_only; accepted: with --evaluate_only --checkpoint "
     "<file>"),
    ("--evaluate_only --checkpoint c.pth.tar --results /x/y --per_class /x/z/../y",
     "--per_class: '/x/y' given, as for --results; accepted: another file"),
    ("--evaluate_only --checkpoint c.pth.tar --all_classes --train_metrics",
     "--train_metrics: given with --all_classes, which measures one split of all images; accepted: "
     "one of them"),
    ("--evaluate_only --checkpoint c.pth.tar --results \"\"",
     "--results: '' given; accepted: a path"),
    ("--evaluate_only",
     "--evaluate_only: given without --checkpoint; accepted: --evaluate_only --checkpoint <file>"),
    ("--checkpoint c.pth.tar",
     "--checkpoint: 'c.pth.tar' given without --evaluate_only; accepted: --evaluate_only "
     "--checkpoint <file>, or --resume <run folder> to train on"),
    ("--evaluate_only --checkpoint \"\"",
     "--checkpoint: '' given; accepted: a path"),
    ("--weights_path w.pth --weights_path",
     "--weights_path: expected one argument; accepted: a text"),
    ("--evaluate_only --checkpoint c.pth.tar --check_data",
     "--check_data: given with --evaluate_only; accepted: one of them"),
    ("--resume no_such_folder",
     "--resume: 'no_such_folder/options.json' does not exist; accepted: the folder of an earlier "
     "run"),
    (f"--resume {LONG}",
     f"--resume: '{LONG}/options.json' cannot be reached (File name too long); accepted: the "
     "folder of an earlier run"),
    (f"--resume {__file__}",
     f"--resume: '{__file__}/options.json' cannot be reached (Not a directory); accepted: the "
     "folder of an earlier run"),
]


@pytest.mark.parametrize("command, line", WRONG, ids=[command[:80] for command, _ in WRONG])
def test_wrong_commands_end_with_one_line(command, line, capsys):
    with pytest.raises(SystemExit) as end:
        parameters.read_arguments(shlex.split(command))
    assert end.value.code == 2
    told = capsys.readouterr()
    assert told.err == f"diva_main.py: error: {line.format(**NAMES)}\n"
    assert told.out == ""


@pytest.mark.parametrize("command", [
    "--samples_per_class 1 --loss softmax", "--bs 2 --samples_per_class 2 --loss proxynca",
    "--samples_per_class 1 --data_sampler random", "--bs 3 --data_sampler rrandom",
    "--samples_per_class 1 --diva_features selfsimilarity",
    "--samples_per_class 1 --diva_features shared --diva_sharing full",
    "--samples_per_class 1 --diva_features discriminative invariantspread",
    "--bs 12 --samples_per_class 4 --diva_features discriminative invariantspread",
    "--bs 8 --samples_per_class 8 --diva_features intra", "--bs 8 --samples_per_class 4"])
def test_batches_with_something_to_learn_from_are_no_mistake(command):
    parameters.read_arguments(shlex.split(command))


def test_the_table_is_long_enough():
    assert len({command for command, _ in WRONG}) >= 170


def test_an_invalid_variable_of_the_environment_is_named(monkeypatch, capsys):
    monkeypatch.setenv("WANDB_MODE", "off")
    with pytest.raises(SystemExit) as end:
        parameters.read_arguments(["--log_online"])
    assert end.value.code == 2
    assert capsys.readouterr().err == (
        "diva_main.py: error: WANDB_MODE: 'off' in the environment; accepted: online, offline, "
        "disabled, shared, dryrun, run\n")
    parameters.read_arguments([])   # nobody asks for W&B


def test_line_breaks_in_what_was_given_do_not_break_the_line(capsys):
    for words in (["--one\ntwo"], ["one\ntwo"], ["--dataset", "a\n/b"], ["--lr", "1\n2x"]):
        with pytest.raises(SystemExit):
            parameters.read_arguments(words)
        assert capsys.readouterr().err.count("\n") == 1


def test_a_deleted_working_directory_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    tmp_path.rmdir()
    with pytest.raises(SystemExit) as end:
        parameters.read_arguments(["--source_path", "/data", "--save_path", "/runs"])
    assert end.value.code == 2 and capsys.readouterr().err == (
        "diva_main.py: error: working directory: it was deleted; accepted: a folder that exists, "
        "by cd\n")
    program = Path(parameters.__file__).with_name("diva_main.py")
    done = subprocess.run([sys.executable, program], text=True, capture_output=True, check=False)
    assert done.returncode == 2 and done.stderr.count("\n") == 1


def test_a_wrong_command_leaves_nothing_behind(tmp_path):
    program = Path(parameters.__file__).with_name("diva_main.py")
    done = subprocess.run([sys.executable, program, "--bs", "111"], cwd=tmp_path, text=True,
                          capture_output=True, check=False)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == ("diva_main.py: error: --bs: 111 given, not divisible by "
                           "--samples_per_class 2; accepted: a multiple of it\n")
    assert list(tmp_path.iterdir()) == []
