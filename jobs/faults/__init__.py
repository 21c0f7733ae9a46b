"""Faults done for real, one scenario for each row of the table of `jobs/README.md`: nothing lost, nothing run, nothing left."""

import signal

from jobs.faults.chains import kill_teachers_of_chain
from jobs.faults.disks import InNamespace
from jobs.faults.heads import restart_head
from jobs.faults.nodes import grow, lose_nodes, take_back
from jobs.faults.proofs import proved_by
from jobs.faults.scenario import Found, Record, Scenario, isolated
from jobs.faults.sharing import prune_beside_runs, sweeps_at_once
from jobs.faults.signals import AtRandom, each_stage, ended_on_shared
from jobs.faults.small_limits import clock_set_back, small_limits
from jobs.faults.soak import soak
from jobs.faults.stores import sick_bucket
from jobs.faults.students import kill_workers, resize
from jobs.faults.trust import named_code, paths_and_sizes, pickled_code

_DISTURBED = "tests/train/test_disturbed.py::test_kills_and_hangs_cost_no_row_and_no_bit"
_RESUME = "tests/train/test_resume.py"
_FLEET = "tests/teachers/test_fleet.py"

SCENARIOS = {
    "R1": Scenario(
        "SIGKILL of live teachers at random",
        "100 kills, 600 batches: no row lost or repeated, the student bit-identical",
        proved_by(f"{_DISTURBED}[few]", f"{_DISTURBED}[kills]", kills=100, batches=600),
        limit_s=600,
    ),
    "R2": Scenario(
        "SIGSTOP of live teachers",
        "10 hangs, each noticed within the request timeout (1 s) and 5 s",
        proved_by(f"{_DISTURBED}[few]", f"{_DISTURBED}[hangs]", hangs=10),
        limit_s=600,
    ),
    "R3": Scenario(
        "SIGKILL of student workers",
        "20 kills; final weights bit-identical",
        kill_workers,
        limit_s=600,
    ),
    "R4": Scenario(
        "nodes lost, of students and of teachers, three Ray nodes",
        "10 losses, at most one checkpoint interval repeated each time",
        lose_nodes,
        limit_s=720,
    ),
    "R4a": Scenario(
        "a node added while a fit trains",
        "the next fit has a worker more",
        grow,
    ),
    "R4b": Scenario(
        "the head and all nodes restarted between two stages",
        "resumed: no teacher fitted again, every score that of an undisturbed run",
        restart_head,
        limit_s=420,
    ),
    "R5": Scenario(
        "a node of students taken back with 15 s notice",
        "no step repeated or lost, no failure counted",
        take_back,
    ),
    "R6": Scenario(
        "resumed at each of 25 steps, mid-epoch",
        "losses, metrics and weights bit-identical",
        proved_by(
            f"{_RESUME}::test_stopped_at_each_step", f"{_RESUME}::test_stopped_after_every_step"
        ),
    ),
    "R7": Scenario(
        "1 → 2 → 4 workers on resume",
        "the same global order, each id once an epoch",
        resize,
    ),
    "R8": Scenario(
        "checkpoints truncated, a bit flipped, a page zeroed, missing, swapped",
        "200 of 200 noticed, the one before is used",
        proved_by(
            f"{_RESUME}::test_a_damaged_state_is_noticed_and_the_one_before_it_used",
            **{"damaged checkpoints found": 200},
        ),
    ),
    "R9": Scenario(
        "target store damaged; of another teacher, preprocessing, class order",
        "all noticed, named by shard",
        proved_by(
            "tests/targets/test_damage.py",
            "tests/teachers/test_policy_and_selftest.py::test_permuted_classes_are_named_with_the_map_that_mends_them",
            **{"flipped bits found": 1000},
        ),
    ),
    "R10": Scenario(
        "SIGKILL of the store's writer",
        "100 points: readers see whole shards, the finished store is byte-identical",
        proved_by("tests/targets/test_killed_writers.py", kills=100),
    ),
    "R11": Scenario(
        "SIGKILL of a search's driver",
        "5 kills: all trials once",
        proved_by(
            "tests/search/test_sweep.py::test_a_killed_driver_is_resumed_with_every_trial_once",
            "tests/search/test_sweep.py::test_a_driver_killed_again_and_again[0-5]",
            **{"kills of the driver": 5},
        ),
        limit_s=900,
    ),
    "R12": Scenario(
        "30 trials stopped early, dashboard off and on",
        "no placement group and no actor left",
        proved_by(
            "tests/search/test_sweep.py::test_early_stopped_trials_leave_no_actor_and_no_placement_group",
            "tests/search/test_teams.py::test_thirty_stopped_trials_leave_nothing[1-off]",
            "tests/search/test_teams.py::test_thirty_stopped_trials_leave_nothing[1-on]",
        ),
        limit_s=900,
    ),
    "R13": Scenario(
        "a bucket in which 20 % of requests fail, half of them after they were done; some never answered",
        "no shard lost or damaged, waits bounded",
        sick_bucket,
    ),
    "R14": Scenario(
        "W&B down, silent, 401, 500, without a key",
        "the run and its numbers as without",
        proved_by("tests/tracking/test_wandb_service.py", "tests/tracking/test_wandb_sink.py"),
    ),
    "R15": Scenario(
        "teachers that answer NaN, raise, are late or lost",
        "told apart, left out with weights renormalised, logged, the run marked degraded",
        proved_by(
            f"{_FLEET}::test_a_teacher_that_answers_nan_or_raises",
            f"{_FLEET}::test_a_lost_teacher_stops_the_run_or_is_left_out",
            f"{_FLEET}::test_an_actor_that_is_late_is_waited_for_or_passed_over_but_not_hung",
            "tests/teachers/test_quarantine.py",
            "tests/pipeline/test_runs.py::test_a_teacher_lost_on_the_way_is_left_out_and_the_run_marked",
        ),
        limit_s=420,
    ),
    "R16": Scenario(
        "10,000 live steps, a teacher killed every 500",
        "memory grows by less than 5 %; no actor, open file or object left",
        soak,
        limit_s=900,
    ),
    "R18": Scenario(
        "SIGTERM of the driver at random, over whole runs, report and export",
        "20 signals: exit 143 within 3 s and how to resume; in the end weights and numbers as undisturbed",
        AtRandom(signal.SIGTERM),
        limit_s=3600,
    ),
    "R19": Scenario(
        "SIGKILL of the driver at random, over whole runs, report and export",
        "20 kills: no process and no folder of its cluster after 15 s; in the end weights and numbers as undisturbed",
        AtRandom(signal.SIGKILL),
        limit_s=3600,
    ),
    "R20": Scenario(
        "SIGHUP and SIGTERM in every stage of a run; SIGHUP where it is ignored",
        "exit 129 and 143 within 3 s, how to resume; an ignored one stays ignored",
        each_stage,
        limit_s=900,
    ),
    "R21": Scenario(
        "SIGKILL and SIGTERM of drivers on a shared cluster",
        "none of their actors after 15 s",
        ended_on_shared,
        limit_s=900,
    ),
    "R22": Scenario(
        "a full disk of the output folder, then of the home, in every stage of a run",
        "one line with place and bytes, nothing half-written; with room: weights and numbers as undisturbed, no fit repeated",
        InNamespace("whole_runs"),
        limit_s=2400,
    ),
    "R23": Scenario(
        "a full folder of temporary files, of W&B, of a report and an export",
        "told in one line; what was there before is whole; numbers as undisturbed",
        InNamespace("others"),
        limit_s=1800,
    ),
    "R24": Scenario(
        "targets pruned, and deleted by hand, while a run trains; in a bucket from another node",
        "no entry of a live run goes; a run whose entry is gone says so, and ends with the numbers of an undisturbed one",
        prune_beside_runs,
        limit_s=1800,
    ),
    "R25": Scenario(
        "6 and 3 GB of address space, an object store of 100 MB, 128 and 64 open files",
        "each ends well, or says in one line what it needs before it starts",
        small_limits,
        limit_s=1800,
    ),
    "R26": Scenario(
        "the clock of all processes set back an hour in the middle of a run",
        "ends as undisturbed, with the same weights and numbers",
        clock_set_back,
        limit_s=900,
    ),
    "R27": Scenario(
        "two sweeps in one home that fit the same teachers at once",
        "both end well, each teacher is fitted once",
        sweeps_at_once,
        limit_s=900,
    ),
    "R28": Scenario(
        "SIGKILL of all teachers, then their node lost, in the middle of the second stage of a chain on three Ray nodes",
        "weights of both stages and of the control bit-identical, summary as undisturbed",
        kill_teachers_of_chain,
        limit_s=900,
    ),
    "S1": Scenario(
        "pickles that run a command, wherever raykd reads a file",
        "none executed, all refused",
        pickled_code,
    ),
    "S2": Scenario(
        "artefacts that name code to import",
        "all refused, none imported",
        named_code,
    ),
    "S3": Scenario(
        "secrets in the environment of a run, a submitted job and W&B",
        "found in no config, log, job, runtime environment, report or W&B record",
        proved_by(
            "tests/cluster/test_submit.py::test_a_job_runs_ends_with_its_own_code_and_shows_no_secret",
            "tests/cli/test_submit_requests.py",
            "tests/tracking/test_wandb_service.py",
            "tests/tracking/test_whole_jobs.py",
        ),
        limit_s=600,
    ),
    "S4": Scenario(
        "launcher, Slurm and KubeRay files",
        "tokens on, dashboards on the loopback, a network policy, no secret",
        proved_by("tests/cluster/test_files.py"),
    ),
    "S5": Scenario(
        "names that lead out of a folder, headers that lie, archives that blow up",
        "all refused, within 512 MiB",
        paths_and_sizes,
    ),
}
"""Row -> what it does, in the order of the table. R17, faults of a GPU, needs one: it is not run."""

__all__ = ["SCENARIOS", "Found", "Record", "Scenario", "isolated"]
