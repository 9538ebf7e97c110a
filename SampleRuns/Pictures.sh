#!/usr/bin/env bash
# The README's two pictures, small, of a run of Quickstart.sh.
#
#     bash SampleRuns/Pictures.sh [run folder; that of the quickstart's first run if none]
#
# PYTHON names another interpreter than `python`.
set -euo pipefail
folder=${1:-$(dirname "$0")/../Training_Results/glyphs/Quickstart_s0}
here=$(CDPATH= cd "$(dirname "$0")" && pwd)
cp "$folder/Progression_Plots/Graph_Test_all_e_recall.svg" "$here/quickstart_curve.svg"
"${PYTHON:-python}" - "$folder/sample_recoveries.png" "$here/quickstart_retrievals.png" <<'END'
import sys

from PIL import Image

with Image.open(sys.argv[1]) as image:
    picture = image.convert("RGB")
# The title and the first four of eight queries.
picture = picture.crop((0, 0, picture.width, int(0.524 * picture.height)))
picture.thumbnail((800, 800))
picture.quantize(64).save(sys.argv[2], optimize=True)
END
