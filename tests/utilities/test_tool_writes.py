"""Files of tools beside those of a training."""

from evaluation import evaluate_only, retrievals
from utilities import checkpoint, tool


def test_a_tool_leaves_alone_what_a_training_is_writing_in_the_same_folder(tmp_path):
    half = tmp_path / checkpoint.TEMPORARY
    half.write_bytes(b"half a checkpoint")
    evaluate_only.write_text(tmp_path / "results.json", "{}\n")
    retrievals.write_file(tmp_path / "picture.png", lambda file: file.write(b"pixels"))
    assert evaluate_only.write_text is tool.write_text and retrievals.write_file is tool.write
    assert half.read_bytes() == b"half a checkpoint"
    assert {path.name for path in tmp_path.iterdir()} == {
        checkpoint.TEMPORARY, "results.json", "picture.png"}
