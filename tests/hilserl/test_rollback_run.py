"""A learner's run goes back: the checkpoint's weights to the last bit, and nothing later is drawn."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hilserl.checkpoint import available, latest, load_training_state
from hilserl.cli import main
from hilserl.episode import load_episode, save_episode, scan_episodes
from hilserl.rollback import excluded_episodes
from hilserl.task_record import task_json
from hilserl.types import Episode, Role
from tests.fakes.run import Session, noise_episode, small_config


def drawn_actions(session: Session, batches: int = 60) -> set[bytes]:
    agent = session.begin_learning()
    return {row.tobytes() for _ in range(batches) for row in agent.sample().action.numpy()}


def actions_of(folder: Path, episodes: set[tuple[str, int]]) -> set[bytes]:
    found = [info for info in scan_episodes(folder) if (info.actor, info.number) in episodes]
    assert len(found) == len(episodes), "nothing of the run is deleted"
    return {row.tobytes() for info in found for row in load_episode(info.path).action}


@pytest.mark.parametrize("to", ["number", "best"])
def test_train_go_back_and_train_on(tmp_path, capsys, to):
    demos = tmp_path / "demos"
    config = replace(small_config(), demos=(str(demos),))
    save_episode(demos, noise_episode(config, 1, Role.DEMO, "operator"))
    (demos / "task.json").write_text(task_json(config.task))

    def story(*numbers: int) -> list[Episode]:
        actors = {n: "a" if n % 3 else "b" for n in numbers}
        return [noise_episode(config, n, actor=actors[n], helped=0.4 if n % 2 else 0.0) for n in numbers]

    with Session(tmp_path, config) as session:
        session.feed(story(*range(1, 10)))
        root, counted = session.run.root, session.counters.transitions
    chosen = available(root / "checkpoints")[0]
    saved = load_training_state(chosen)
    assert saved.transitions < counted, "there is something to take back"
    if to == "best":
        (root / "checkpoints/best").symlink_to(chosen.name)
    everything = {(info.actor, info.number) for info in scan_episodes(root / "episodes")}

    where = ["--config_path", str(root / "config.json"), f"--output_dir={tmp_path}", "--job_name=job"]
    assert main(["rollback", chosen.name if to == "number" else "best", *where]) == 0
    later = {(a, n) for a, n in everything if n > saved.state["numbers"].get(a, 0)}
    assert excluded_episodes(root) == later and later and later != everything
    assert "set apart" in said(capsys, "status", *where, "--service.learner_port=1")

    for life in range(2):  # resumed, and resumed once more
        with Session(tmp_path, config) as session:
            tensors, plain = session.begin_learning().sac.state_dict()
            if life == 0:
                assert latest(root / "checkpoints") == chosen
                assert tensors.keys() == saved.tensors.keys() and plain == saved.state["sac"]
                for name, tensor in tensors.items():
                    np.testing.assert_array_equal(tensor.numpy(), saved.tensors[name], err_msg=name)
                assert session.counters.transitions == saved.transitions, "only what is kept is counted"
                assert session.counters.updates == saved.state["updates"]
            assert not drawn_actions(session) & actions_of(root / "episodes", later)
            session.feed(story(*range(10 + 3 * life, 13 + 3 * life)))
            assert not drawn_actions(session) & actions_of(root / "episodes", later)
            new = {("a" if n % 3 else "b", n) for n in range(10, 13 + 3 * life)}
            assert drawn_actions(session) & actions_of(root / "episodes", new)
    assert latest(root / "checkpoints").name > chosen.name
    assert {(info.actor, info.number) for info in scan_episodes(root / "episodes")} >= everything


def said(capsys, *words: str) -> str:
    capsys.readouterr()
    assert main(list(words)) == 0
    return capsys.readouterr().out
