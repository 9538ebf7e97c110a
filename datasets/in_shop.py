"""In-Shop Clothes Retrieval of DeepFashion (Liu et al. 2016).

`Eval/list_eval_partition.txt` has a count line, a header and rows `image_name item_id
evaluation_status`, with the status train, query or gallery. Download (img.zip, not img_highres):
mmlab.ie.cuhk.edu.hk/projects/DeepFashion/InShopRetrieval.html.
"""

from pathlib import Path

from datasets import Damaged, Samples
from datasets.class_folders import require
from datasets.tables import repeated, rows
from utilities.errors import refuse

LAYOUT = "img/<MEN|WOMEN>/<type>/id_XXXXXXXX/<files> beside Eval/list_eval_partition.txt"
COLUMNS = "image_name item_id evaluation_status"
SPLITS = {"train": "training", "query": "testing_query", "gallery": "testing_gallery"}


def read(folder: Path) -> dict[str, Samples]:
    """{"training", "testing_query", "testing_gallery"}: (path, item) of each image, by item."""
    partition = folder / "Eval" / "list_eval_partition.txt"
    require(partition, folder, LAYOUT)
    require(folder / "img", folder, LAYOUT)
    splits = {split: [] for split in SPLITS.values()}
    table = rows(partition, COLUMNS, path_column=0, counted=True)
    for where, (path, item, status) in table:
        if status not in SPLITS:
            refuse("--source_path", f"evaluation_status {status!r} in {where}", ", ".join(SPLITS))
        splits[SPLITS[status]].append((str(folder / path), item))
    splits = {split: sorted(samples, key=lambda sample: sample[1])
              for split, samples in splits.items()}
    if faults := repeated(table, path_column=0):
        raise Damaged(faults, splits)
    return splits
