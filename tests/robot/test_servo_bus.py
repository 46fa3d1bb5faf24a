"""Laws of the simulated servo bus: framing survives anything, memory behaves as the vendor says."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lerobot.motors.encoding_utils import decode_sign_magnitude, encode_sign_magnitude
from lerobot.motors.feetech.tables import STS_SMS_SERIES_CONTROL_TABLE, STS_SMS_SERIES_ENCODINGS_TABLE

from robot.twin.faults import CameraFault, Faults, Status
from robot.twin.registers import REGISTERS, Area, Memory, decode_sign, encode_sign
from robot.twin.servo_bus import BROADCAST, Instruction, ServoBus, checksum, packet, take_packet
from tests.fakes.servo_body import LagBody

FAST = settings(max_examples=30, deadline=None)
RAD_PER_COUNT = 2 * math.pi / 4096


def make_bus(q_rad=(0.0,) * 6, faults=None, **options):
    body = LagBody(q_rad)
    return ServoBus(body, faults or Faults(), **options), body


def ask(bus, servo_id, instruction, parameters=b""):
    """Error byte and data of the one answer; None when there is none."""
    answers = all_answers(bus.receive(packet(servo_id, instruction, bytes(parameters))))
    assert len(answers) <= 1
    return (answers[0][2], answers[0][3:]) if answers else None


def all_answers(data):
    buffer = bytearray(data)
    answers = []
    while (content := take_packet(buffer)) is not None:
        answers.append(content)
    assert not buffer, "a servo sent bytes that are no packet"
    return answers


def write(bus, servo_id, name, value):
    register = REGISTERS[name]
    data = bytes([register.address]) + value.to_bytes(register.size, "little")
    return ask(bus, servo_id, Instruction.WRITE, data)


def read(bus, servo_id, name):
    register = REGISTERS[name]
    _, data = ask(bus, servo_id, Instruction.READ, [register.address, register.size])
    return int.from_bytes(data, "little")


def test_registers_lie_where_lerobot_looks_for_them():
    ours = {name: (register.address, register.size) for name, register in REGISTERS.items()}
    aliases = {"Moving_Velocity": "Moving_Velocity_Threshold"}
    for name, place in STS_SMS_SERIES_CONTROL_TABLE.items():
        assert ours[aliases.get(name, name.strip())] == place, name


def test_registers_do_not_overlap():
    taken = [place for r in REGISTERS.values() for place in range(r.address, r.address + r.size)]
    assert len(taken) == len(set(taken))


@given(st.sampled_from(sorted(set(STS_SMS_SERIES_ENCODINGS_TABLE.values()))), st.data())
def test_signs_are_coded_as_lerobot_does(bit, data):
    value = data.draw(st.integers(-(2**bit) + 1, 2**bit - 1))
    assert encode_sign(value, bit) == encode_sign_magnitude(value, bit)
    assert (
        decode_sign(encode_sign(value, bit), bit)
        == value
        == decode_sign_magnitude(encode_sign(value, bit), bit)
    )


requests = st.builds(
    packet,
    st.integers(0, BROADCAST),
    st.sampled_from([int(i) for i in Instruction] + [0x06, 0x55]),
    st.binary(max_size=40),
)


@FAST
@given(st.lists(st.one_of(requests, st.binary(max_size=12)), max_size=8), st.data())
def test_any_bytes_in_any_pieces_give_whole_answers(pieces, data):
    """Nothing crashes the bus, and every answer it gives is a whole packet with a right checksum."""
    stream = b"".join(pieces)
    bus, _ = make_bus()
    answer = b""
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        answer += bus.receive(stream[:size])
        stream = stream[size:]
    all_answers(answer)


@FAST
@given(st.lists(requests, min_size=1, max_size=6), st.data())
def test_splitting_the_stream_changes_nothing(packets, data):
    stream = b"".join(packets)
    whole, _ = make_bus()
    split, _ = make_bus()
    expected = whole.receive(stream)
    answer = b""
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        answer += split.receive(stream[:size])
        stream = stream[size:]
    assert answer == expected


@FAST
@given(st.binary(max_size=20).filter(lambda junk: b"\xff" not in junk), st.integers(0, 4), st.integers(1, 6))
def test_garbage_before_a_packet_is_skipped(junk, headers, servo_id):
    bus, _ = make_bus()
    assert bus.receive(junk + b"\xff" * headers + packet(servo_id, Instruction.PING)) == packet(servo_id, 0)


@FAST
@given(st.integers(1, 6), st.integers(0, 5), st.integers(1, 255))
def test_a_damaged_request_is_never_obeyed(servo_id, place, change):
    bus, body = make_bus()
    request = bytearray(packet(servo_id, Instruction.WRITE, bytes([40, 1])))
    request[2 + place] ^= change
    bus.receive(bytes(request))
    assert body.goal == [None] * 6


def test_a_packet_after_a_damaged_one_is_heard():
    bus, _ = make_bus()
    damaged = packet(1, Instruction.PING)[:-1] + b"\x00"
    assert bus.receive(damaged + packet(2, Instruction.PING)) == packet(2, 0)


def test_ping_names_one_servo_and_broadcast_ping_names_all():
    bus, _ = make_bus()
    assert ask(bus, 3, Instruction.PING) == (0, b"")
    assert ask(bus, 9, Instruction.PING) is None
    answers = all_answers(bus.receive(packet(BROADCAST, Instruction.PING)))
    assert [content[0] for content in answers] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    "name", [n for n, r in REGISTERS.items() if not r.read_only and n not in ("ID", "Torque_Enable")]
)
def test_what_is_written_is_read_back(name):
    bus, _ = make_bus()
    write(bus, 2, "Lock", 0)
    assert write(bus, 2, name, 1) == (0, b"")
    assert read(bus, 2, name) == 1
    assert read(bus, 3, name) == REGISTERS[name].initial


@pytest.mark.parametrize("name", [n for n, r in REGISTERS.items() if r.read_only])
def test_read_only_registers_stay(name):
    bus, _ = make_bus()
    before = read(bus, 1, name)
    write(bus, 1, name, 77)
    assert read(bus, 1, name) == before


@pytest.mark.parametrize("lock", [0, 1])
def test_eeprom_is_kept_over_power_off_only_when_unlocked(lock):
    bus, _ = make_bus()
    write(bus, 1, "Lock", lock)
    write(bus, 1, "Min_Position_Limit", 500)
    write(bus, 1, "Goal_Velocity", 600)
    assert read(bus, 1, "Min_Position_Limit") == 500
    bus.power_cycle()
    assert read(bus, 1, "Min_Position_Limit") == (500 if lock == 0 else 0)
    assert read(bus, 1, "Goal_Velocity") == 0
    assert read(bus, 1, "Lock") == 1


def test_torque_limit_starts_from_its_eeprom_value():
    bus, _ = make_bus()
    write(bus, 6, "Lock", 0)
    write(bus, 6, "Max_Torque_Limit", 500)
    bus.power_cycle()
    assert read(bus, 6, "Torque_Limit") == 500


@FAST
@given(
    st.floats(-2.7, 2.7),
    st.integers(-2047, 2047),
    st.integers(0, 4095),
)
def test_present_position_is_encoder_minus_offset(angle_rad, offset, encoder_zero):
    bus, _ = make_bus((angle_rad,) * 6, encoder_zeros=(encoder_zero,) * 6)
    write(bus, 4, "Homing_Offset", encode_sign(offset, 11))
    shown = read(bus, 4, "Present_Position")
    assert shown == (encoder_zero + round(angle_rad / RAD_PER_COUNT) - offset) % 4096


@FAST
@given(st.floats(-2.7, 2.7), st.integers(-2047, 2047), st.integers(0, 4095))
def test_a_servo_told_to_go_where_it_shows_stays_there(angle_rad, offset, encoder_zero):
    """Goal and present position are on one scale, whatever the offset and the mounting."""
    bus, body = make_bus((angle_rad,) * 6, encoder_zeros=(encoder_zero,) * 6)
    write(bus, 4, "Homing_Offset", encode_sign(offset, 11))
    write(bus, 4, "Goal_Position", read(bus, 4, "Present_Position"))
    write(bus, 4, "Torque_Enable", 1)
    assert body.goal[3] == pytest.approx(angle_rad, abs=0.6 * RAD_PER_COUNT)


def test_gaining_torque_holds_the_pose_and_losing_it_lets_go():
    bus, body = make_bus((0.5,) * 6)
    write(bus, 1, "Torque_Enable", 1)
    assert body.goal[0] == pytest.approx(0.5, abs=RAD_PER_COUNT)
    write(bus, 1, "Torque_Enable", 0)
    assert body.goal[0] is None


def test_goals_stop_at_the_position_limits():
    bus, body = make_bus()
    write(bus, 1, "Max_Position_Limit", 3000)
    write(bus, 1, "Torque_Enable", 1)
    write(bus, 1, "Goal_Position", 4000)
    assert body.goal[0] == pytest.approx((3000 - 2048) * RAD_PER_COUNT)


def test_torque_128_makes_here_the_middle():
    bus, _ = make_bus((0.7,) * 6)
    write(bus, 1, "Torque_Enable", 128)
    assert read(bus, 1, "Present_Position") == 2048
    assert read(bus, 1, "Torque_Enable") == 0


def test_reg_write_waits_for_action():
    bus, body = make_bus()
    for servo_id in (1, 2):
        write(bus, servo_id, "Torque_Enable", 1)
        ask(bus, servo_id, Instruction.REG_WRITE, [42, *(2500).to_bytes(2, "little")])
        assert body.goal[servo_id - 1] == pytest.approx(0.0)
        assert read(bus, servo_id, "Async_Write_Flag") == 1
    assert bus.receive(packet(BROADCAST, Instruction.ACTION)) == b""
    assert body.goal[:2] == pytest.approx([(2500 - 2048) * RAD_PER_COUNT] * 2)


def test_sync_write_moves_the_named_servos_and_nobody_answers():
    bus, body = make_bus()
    for servo_id in range(1, 7):
        write(bus, servo_id, "Torque_Enable", 1)
    goals = b"".join(bytes([i]) + (2048 + 100 * i).to_bytes(2, "little") for i in (1, 3, 6))
    assert bus.receive(packet(BROADCAST, Instruction.SYNC_WRITE, bytes([42, 2]) + goals)) == b""
    expected = [100 * i * RAD_PER_COUNT if i in (1, 3, 6) else 0.0 for i in range(1, 7)]
    assert body.goal == pytest.approx(expected)


def test_sync_read_answers_in_the_order_asked():
    bus, _ = make_bus()
    answers = all_answers(bus.receive(packet(BROADCAST, Instruction.SYNC_READ, bytes([5, 1, 4, 2, 6]))))
    assert [(content[0], content[3]) for content in answers] == [(4, 4), (2, 2), (6, 6)]


def test_a_renamed_servo_answers_once_more_under_its_old_name():
    bus, _ = make_bus()
    write(bus, 1, "Lock", 0)
    assert bus.receive(packet(1, Instruction.WRITE, bytes([5, 21]))) == packet(1, 0)
    assert ask(bus, 1, Instruction.PING) is None
    assert ask(bus, 21, Instruction.PING) == (0, b"")


def test_a_servo_at_another_baud_rate_is_deaf():
    bus, _ = make_bus()
    write(bus, 1, "Baud_Rate", 5)
    bus.line_baud = 0
    assert ask(bus, 1, Instruction.PING) is None
    bus.line_baud = 5
    assert ask(bus, 1, Instruction.PING) == (0, b"")


@pytest.mark.parametrize("status", [Status.OVERLOAD, Status.OVERHEAT, Status.VOLTAGE])
def test_a_fault_shows_in_every_answer_and_in_the_status_register(status):
    bus, body = make_bus()
    write(bus, 4, "Torque_Enable", 1)
    bus_faults = Faults()
    bus._faults = bus_faults
    bus_faults.status[4] = status
    assert ask(bus, 4, Instruction.PING) == (int(status), b"")
    assert read(bus, 4, "Status") == int(status)
    releases = bool(int(status) & REGISTERS["Unloading_Condition"].initial)
    assert (body.goal[3] is None) == releases
    bus.power_cycle()
    assert ask(bus, 4, Instruction.PING) == (0, b"")


def test_a_silent_servo_neither_answers_nor_obeys():
    faults = Faults(silent=frozenset({5}))
    bus, body = make_bus(faults=faults)
    assert ask(bus, 5, Instruction.PING) is None
    assert write(bus, 5, "Torque_Enable", 1) is None
    assert body.goal[4] is None


def damage(seed):
    faults = Faults(seed, drop_rate=0.3, corrupt_rate=0.3)
    return [faults.on_packet(packet(1, 1, bytes(5))) for _ in range(200)]


def test_packet_faults_repeat_with_their_seed_and_are_always_detectable():
    assert damage(1) == damage(1) != damage(2)
    whole = packet(1, 1, bytes(5))
    for arrived in damage(1):
        assert arrived == whole or take_packet(bytearray(arrived)) is None
    assert {arrived == whole for arrived in damage(1)} == {True, False}


def test_checksum_is_that_of_the_vendor_example():
    assert checksum(bytes([0x01, 0x02, 0x01])) == 0xFB
    assert packet(1, Instruction.PING) == bytes([0xFF, 0xFF, 0x01, 0x02, 0x01, 0xFB])


def test_memory_regions_are_marked_as_the_vendor_does():
    for name, register in REGISTERS.items():
        in_ram = 40 <= register.address < 80
        assert (register.area is Area.RAM) == in_ram, name
    assert Memory(3).get("ID") == 3
    assert Memory(3).get("Model_Number") == 777


def test_camera_faults():
    import numpy as np

    faults = Faults()
    first, second = np.full((4, 6, 3), 10, np.uint8), np.full((4, 6, 3), 20, np.uint8)
    assert (faults.on_picture(first) == first).all()
    faults.camera = CameraFault.TORN
    assert faults.on_picture(second)[:, 0, 0].tolist() == [20, 20, 10, 10]
    faults.camera = CameraFault.FROZEN
    assert (faults.on_picture(first) == second).all()
    assert (faults.on_picture(first) == second).all()
    faults.camera = CameraFault.BLACK
    assert not faults.on_picture(first).any()
    faults.camera = CameraFault.MISSING
    assert faults.on_picture(first) is None
