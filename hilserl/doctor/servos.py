"""Checks of the servos and their calibration. Nothing is written, and no torque comes on."""

from __future__ import annotations

from pathlib import Path

from hilserl.doctor.context import Context, Missing
from hilserl.doctor.findings import Finding, Status, judged
from robot.calibration import (
    Calibration,
    calibration_id,
    load_calibration,
)
from robot.errors import BusError
from robot.health import HealthLimits
from robot.servo_link import ServoLink, fault_words
from robot.servo_setup import CALIBRATED, MODEL_NUMBER
from robot.timing import RealClock
from robot.types import GRIPPER, JOINT_NAMES

PROTECTION = {
    "Max_Temperature_Limit": (50, 80),
    "Protection_Time": (1, 254),
    "Protective_Torque": (1, 50),
    "Overload_Torque": (1, 100),
}
"""{register: least and greatest value}: a servo that is overloaded lets go in time."""
STRENGTH = {"Max_Torque_Limit": (600, 1000)}
"""Of all but the gripper, whose force is halved on purpose: per mille of full torque."""
GRIPPER_NAME = JOINT_NAMES[GRIPPER]
MUST_LET_GO = 4 | 32
"""Status bits, too hot and overloaded, at which a servo must release its joint."""

Memories = dict[str, dict[str, int]]


def calibration_of(context: Context) -> Calibration:
    """The follower's calibration file. Raises CalibrationError; Missing where there are no servos."""
    robot = context.config.robot
    if context.twin:
        raise Missing("the lock-step twin has no servos")
    return load_calibration(Path(robot.calibration_dir), robot.id, robot.port)


def _memories(context: Context) -> tuple[Memories, dict[str, int]]:
    """Registers of every servo that answers, read once, and their status bytes."""
    if context.memories is None:
        calibration, robot = calibration_of(context), context.config.robot
        ids = {name: joint.id for name, joint in zip(JOINT_NAMES, calibration.joints, strict=True)}
        link = ServoLink(robot.port, ids, robot.bus_retries, RealClock())
        found: Memories = {}
        link.open()
        try:
            for name in JOINT_NAMES:
                try:
                    found[name] = link.read_memory(name)
                except BusError:
                    continue
        finally:
            link.close()
        context.memories = found, dict(link.status)
    return context.memories


def identity(context: Context) -> list[Finding]:
    """All six servos answer, each of the right model."""
    calibration, (memories, _) = calibration_of(context), _memories(context)
    silent = [
        f"{name} (servo {joint.id})"
        for name, joint in zip(JOINT_NAMES, calibration.joints, strict=True)
        if name not in memories
    ]
    others = [
        f"{name} is model {memory['Model_Number']}"
        for name, memory in memories.items()
        if memory["Model_Number"] != MODEL_NUMBER
    ]
    versions = {f"{m['Firmware_Major_Version']}.{m['Firmware_Minor_Version']}" for m in memories.values()}
    faults = [*(f"no answer from {name}" for name in silent), *others]
    value = "; ".join(faults) or f"six of model {MODEL_NUMBER}, firmware {', '.join(sorted(versions))}"
    findings = [
        judged("servo_identity", not faults, value, "six STS3215 answer", "check plugs, supply and servo ids")
    ]
    if len(versions) > 1:
        advice = "servos of several firmware versions may move differently: update them"
        findings.append(Finding("servo_firmware", Status.WARN, ", ".join(sorted(versions)), "one", advice))
    return findings


def supply(context: Context) -> list[Finding]:
    """Voltage and heat of every servo, within the limits the arm pauses at."""
    memories, _ = _memories(context)
    limits, findings = HealthLimits(), []
    volts = {name: memory["Present_Voltage"] / 10 for name, memory in memories.items()}
    heats = {name: float(memory["Present_Temperature"]) for name, memory in memories.items()}
    if not volts:
        raise Missing("no servo answered")
    low, hot = min(volts, key=lambda name: volts[name]), max(heats, key=lambda name: heats[name])
    for check, joint, amount, warn, fail, unit, advice in (
        (
            "servo_voltage", low, volts[low], limits.warn_voltage_v, limits.pause_voltage_v, "V",
            "one supply for each arm; check its plug and rating",
        ),
        (
            "servo_temperature", hot, -heats[hot], -limits.warn_temperature_c, -limits.pause_temperature_c,
            "C", "let it cool; look for a joint that carries load all the time",
        ),
    ):  # fmt: skip
        status = Status.OK if amount > warn else Status.WARN if amount > fail else Status.FAIL
        found = f"{abs(amount):g} {unit} at {joint}"
        findings.append(Finding(check, status, found, f"{abs(warn):g}, {abs(fail):g} {unit}", advice))
    return findings


def protection(context: Context) -> list[Finding]:
    """What protects a servo is on, and it may use its strength. Connecting sets what else differs."""
    memories, _ = _memories(context)
    wrong = [
        f"{name}.{register} is {memory[register]}, it must be {low} to {high}"
        for name, memory in memories.items()
        for register, (low, high) in (PROTECTION | ({} if name == GRIPPER_NAME else STRENGTH)).items()
        if not low <= memory[register] <= high
    ]
    wrong += [
        f"{name}.Unloading_Condition is {memory['Unloading_Condition']}: it does not let go when {words}"
        for name, memory in memories.items()
        for words in [fault_words(MUST_LET_GO & ~memory["Unloading_Condition"])]
        if words
    ]
    value, advice = "; ".join(wrong) or "as an STS3215 comes", "set it back with the vendor's tool"
    return [judged("servo_limits", not wrong, value, "within what protects and moves an SO-101", advice)]


def faults(context: Context) -> list[Finding]:
    """No servo has latched a fault."""
    memories, status = _memories(context)
    told = {name: fault_words(status[name] | memory["Status"]) for name, memory in memories.items()}
    bad = [f"{name}: {words}" for name, words in told.items() if words]
    value = "; ".join(bad) or "none"
    return [judged("servo_faults", not bad, value, "none", "switch the arm's supply off and on again")]


def eeprom(context: Context) -> list[Finding]:
    """The servos hold the calibration file's numbers; the task record names this calibration."""
    calibration, (memories, _) = calibration_of(context), _memories(context)
    different = [
        f"{name}.{field}: file {getattr(joint, field)}, servo {memories[name][register]}"
        for name, joint in zip(JOINT_NAMES, calibration.joints, strict=True)
        if name in memories
        for register, field in CALIBRATED.items()
        if getattr(joint, field) != memories[name][register]
    ]
    found, named = calibration_id(calibration), context.config.task.calibration_id
    return [
        judged(
            "servo_calibration",
            not different,
            "; ".join(different) or f"{calibration.source} ({found})",
            "file and servos agree",
            "is this the right arm? write the file to its servos, or calibrate again (hilserl calibrate)",
        ),
        judged(
            "calibration_id",
            named in ("", found),
            f"task record: {named or 'names none'}; this arm: {found}",
            "the same",
            "the arm was calibrated anew since: put that calibration back, or record again",
        ),
    ]
