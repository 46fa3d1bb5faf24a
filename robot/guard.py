"""Guard: an Arm around an Arm, and the only door to a servo. The one place where a command is refused."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np

from robot.arm_shape import F64
from robot.clearance import ROUNDING_M, Clearance, straight
from robot.errors import BusError, CommandRefused, RobotError, ServoUnwell, TorqueLost
from robot.timing import RealClock
from robot.types import F32, GRIPPER, JOINT_NAMES, NUM_JOINTS, Arm, ArmState, Clock, Limits

LIMIT_ROUNDING_RAD = 1e-3
"""How far beyond a limit a target counts as rounding and is set to the limit: less than one servo count."""
SLEW_ROUNDING_RAD = 1e-4
"""Rounding allowed in the length of each move."""
EARLY_S = 0.02
"""How much earlier than at full speed a target may be reached, in all: timer jitter."""
LONGEST_MOVE_S = 0.1
"""A pause between commands buys a move of at most this long at full speed."""
IDLE_READ_S = 0.4
"""An arm nobody reads is read by the guard's thread, so that its heat or a lost supply is noticed in time."""


class Guard:
    """Refuses what must not reach a servo, and holds the arm when nobody commands it.

    Nothing is clipped: a bad target raises CommandRefused, which names joint, value and what would be
    right, and the arm keeps its last target. The caller interpolates. A target is refused when it is

    - not float32 (6,), or not finite;
    - outside `limits` (the arm's own, intersected with `model_limits`) by more than LIMIT_ROUNDING_RAD;
    - too far: from the last accepted target (at first, and after a hold, from the measured pose) a joint
      may move `max_joint_speed_rad_s` times the time since, which counts up to LONGEST_MOVE_S. EARLY_S
      and SLEW_ROUNDING_RAD are the tolerance; what is taken early must be given back, so a burst of
      commands gains nothing. Back from the last target to where the arm was just measured is free: it
      is there already (so an episode may begin from the measured pose while the gripper squeezes);
    - too near, or leading past what is too near: the table, or the arm itself (`clearance`). An arm that is
      too near already may stay and move out, but no nearer (`Clearance.allowed`);
    - sent while the arm is blocked: a joint other than the gripper (squeezing is normal) was last read
      further than `divergence_rad` from everything that was its target in the last `divergence_s`.
      The guard then also holds;
    - sent while `unwell` says why the arm must not move (ServoUnwell): the guard then also holds.

    Servos found limp (TorqueLost) hold where they are by then: the next move starts from the measured pose.

    Watchdog: when no command was accepted for `watchdog_s` since the last one, the guard holds: it commands
    the measured joints once (the gripper keeps its target, so that a grasp survives) and `holding` is
    true until the next accepted command. With a RealClock a thread looks four times per `watchdog_s`; with
    a simulated clock the elapsed simulated time is checked at the next call.

    `park` disarms the watchdog first. All calls are safe from any thread: one lock stands around the arm.
    """

    def __init__(
        self,
        arm: Arm,
        clock: Clock,
        *,
        max_joint_speed_rad_s: float,
        watchdog_s: float,
        model_limits: Limits | None = None,
        clearance: Clearance | None = None,
        divergence_rad: float = 0.26,
        divergence_s: float = 0.5,
        unwell: Callable[[], str] = lambda: "",
    ) -> None:
        for name, value in {
            "max_joint_speed_rad_s": max_joint_speed_rad_s,
            "watchdog_s": watchdog_s,
            "divergence_rad": divergence_rad,
            "divergence_s": divergence_s,
        }.items():
            if not (np.isfinite(value) and value > 0.0):
                raise ValueError(f"{name} must be positive, got {value}")
        self._arm = arm
        self._clock = clock
        self._speed = max_joint_speed_rad_s
        self._watchdog_s = watchdog_s
        self._divergence_rad = divergence_rad
        self._divergence_s = divergence_s
        self._unwell = unwell
        self._clearance = clearance
        self._best_m: F64 = np.zeros(2)
        """The slack that the next target must keep; see `Clearance.allowed`."""
        self._limits = _intersection(arm.limits, model_limits)
        self._lock = threading.RLock()
        self._target: F32 | None = None
        self._measured: F32 | None = None
        self._measured_s = 0.0
        self._accepted_s = 0.0
        self._spent_s = 0.0
        self._history: deque[tuple[float, F32]] = deque()
        self._blocked = ""
        self._armed = False
        self._holding = False
        self._watchdog_error: RobotError | None = None
        self._used_s = clock.now_s()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        if isinstance(clock, RealClock):
            self._thread = threading.Thread(target=self._watch, name="guard-watchdog", daemon=True)
            self._thread.start()

    @property
    def limits(self) -> Limits:
        """Range `command` accepts: the arm's own limits within the model's."""
        return self._limits

    @property
    def holding(self) -> bool:
        """True from a hold (watchdog or blocked arm) until the next accepted command."""
        return self._holding

    @property
    def idle_s(self) -> float:
        """How long ago somebody last read, commanded or parked the arm through this guard."""
        return self._clock.now_s() - self._used_s

    def read(self) -> ArmState:
        """Measured state now. Raises what the arm raises, and what the watchdog met meanwhile."""
        self._used_s = self._clock.now_s()
        with self._lock:
            self._raise_watchdog_error()
            self._hold_if_late()
            return self._read()

    def command(self, q_rad: F32) -> None:
        """Pass the target (6,) [rad] on, or raise CommandRefused; see the class for the reasons."""
        self._used_s = self._clock.now_s()
        with self._lock:
            self._raise_watchdog_error()
            self._hold_if_late()
            self._refuse_blocked()
            self._refuse_unwell()
            target = self._within_limits(_checked(q_rad))
            now_s = self._clock.now_s()
            if self._target is None:
                self._restart_from(self._read().q_rad, now_s - LONGEST_MOVE_S)
            spent_s = self._refuse_jump(target, now_s)
            best_m = self._refuse_near(target, now_s)
            with self._limp_noticed():
                self._arm.command(target)
            self._best_m = best_m
            self._accept(target, now_s, spent_s)

    def park(self) -> None:
        """Disarm the watchdog and bring the arm down. The next command starts from the measured pose."""
        self._used_s = self._clock.now_s()
        with self._lock:
            self._disarm()
            self._arm.park()

    def close(self) -> None:
        """End the watchdog and release the arm without moving it. More than once is allowed."""
        self._closing.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()
        with self._lock:
            self._disarm()
            self._arm.close()

    def _read(self) -> ArmState:
        with self._limp_noticed():
            state = self._arm.read()
        self._measured, self._measured_s = state.q_rad.copy(), self._clock.now_s()
        self._blocked = self._divergence(self._measured, self._measured_s)
        return state

    def _within_limits(self, target: F32) -> F32:
        lower, upper = self._limits.lower_rad, self._limits.upper_rad
        beyond = np.maximum(lower - target, target - upper)
        worst = int(np.argmax(beyond))
        if beyond[worst] > LIMIT_ROUNDING_RAD:
            raise CommandRefused(
                f"joint {JOINT_NAMES[worst]!r} was asked to go to {target[worst]:.4f} rad, "
                f"its limits are [{lower[worst]:.4f}, {upper[worst]:.4f}] rad"
            )
        return np.clip(target, lower, upper)

    def _refuse_jump(self, target: F32, now_s: float) -> float:
        """Time [s] up to which speed is spent once `target` is accepted; CommandRefused when too far."""
        start = self._nearest_known(target, now_s)
        move = np.abs(target - start)
        worst = int(np.argmax(move))
        begin_s = max(self._spent_s, now_s - LONGEST_MOVE_S)
        spent_s = begin_s + max(0.0, float(move[worst]) - SLEW_ROUNDING_RAD) / self._speed
        if spent_s > now_s + EARLY_S:
            allowed = max(0.0, now_s + EARLY_S - begin_s) * self._speed
            since = "the measured pose it holds" if self._holding else "its last target"
            raise CommandRefused(
                f"joint {JOINT_NAMES[worst]!r} was asked to go from {since}, {start[worst]:.4f} rad, "
                f"to {target[worst]:.4f} rad: {move[worst]:.4f} rad at once, allowed now {allowed:.4f} rad "
                f"(at most {self._speed:g} rad/s); interpolate"
            )
        return max(now_s, spent_s)

    def _nearest_known(self, target: F32, now_s: float) -> F32:
        """What is nearest to the target between the last target and where the arm was just measured."""
        assert self._target is not None
        if self._measured is None or now_s - self._measured_s > LONGEST_MOVE_S:
            return self._target
        low, high = np.minimum(self._target, self._measured), np.maximum(self._target, self._measured)
        return np.clip(target, low, high)

    def _refuse_near(self, target: F32, now_s: float) -> F64:
        """The slack to keep once `target` is accepted; CommandRefused where the way to it comes too near."""
        if self._clearance is None:
            return self._best_m
        assert self._target is not None
        best_m = self._best_m
        if self._measured is not None and (self._nearest_known(target, now_s) != self._target).any():
            best_m = np.minimum(best_m, self._clearance.best_at(self._measured))  # pushed or sunk there
        way = straight(self._target, target)
        count, best_m = self._clearance.allowed(way, best_m, rounding_m=ROUNDING_M)
        if count < len(way):
            raise CommandRefused(
                f"the way asked for brings {self._clearance.told(way[count])}; the arm keeps its last target"
            )
        return best_m

    def _accept(self, target: F32, now_s: float, spent_s: float) -> None:
        self._target = target
        self._accepted_s = now_s
        self._spent_s = spent_s
        self._history.append((now_s, target))
        self._forget_before(now_s - self._divergence_s)
        self._armed = True
        self._holding = False

    def _restart_from(self, pose: F32, spent_s: float) -> None:
        """Measure the next move, what it is too near to, and divergence, from `pose`."""
        self._target = np.array(pose, dtype=np.float32)
        if self._clearance is not None:
            self._best_m = self._clearance.best_at(self._target)
        self._spent_s = spent_s
        self._history = deque([(self._clock.now_s(), self._target)])

    def _disarm(self) -> None:
        self._armed = False
        self._holding = False
        self._target = None
        self._history.clear()
        self._blocked = ""
        self._watchdog_error = None

    def _divergence(self, measured: F32, now_s: float) -> str:
        """Why the arm counts as blocked, or "".

        Compared with every target in force during the window, so that an arm that follows with a lag
        is never taken for a blocked one.
        """
        self._forget_before(now_s - self._divergence_s)
        if not self._history:
            return ""
        targets = np.stack([target for _, target in self._history])
        low, high = targets.min(axis=0), targets.max(axis=0)
        off = np.maximum(low - measured, measured - high)
        off[GRIPPER] = 0.0
        worst = int(np.argmax(off))
        if off[worst] <= self._divergence_rad:
            return ""
        return (
            f"joint {JOINT_NAMES[worst]!r} is at {measured[worst]:.4f} rad, {off[worst]:.4f} rad away from "
            f"every target of the last {self._divergence_s:g} s "
            f"([{low[worst]:.4f}, {high[worst]:.4f}] rad; allowed {self._divergence_rad:g} rad): "
            "it is blocked or does not follow. The arm now holds where it is; start again from there"
        )

    def _forget_before(self, begin_s: float) -> None:
        """Drop targets that were replaced before `begin_s`."""
        while len(self._history) > 1 and self._history[1][0] <= begin_s:
            self._history.popleft()

    def _refuse_blocked(self) -> None:
        if self._blocked:
            reason = self._blocked
            self._hold()
            raise CommandRefused(reason)

    def _refuse_unwell(self) -> None:
        if reason := self._unwell():
            if not self._holding:
                self._hold()
            raise ServoUnwell(f"the arm holds and does not move: {reason}")

    @contextmanager
    def _limp_noticed(self) -> Iterator[None]:
        """An arm that was limp is not where it was sent: what was asked of it before no longer counts."""
        try:
            yield
        except TorqueLost:
            self._disarm()
            raise

    def _hold_if_late(self) -> None:
        silent_s = self._clock.now_s() - self._accepted_s
        if self._armed and not self._holding and silent_s > self._watchdog_s:
            self._hold()

    def _hold(self) -> None:
        """Command the measured joints once; the gripper keeps its target."""
        pose = self._read().q_rad.copy()
        if self._target is not None:
            pose[GRIPPER] = self._target[GRIPPER]
        # an arm pushed by hand may stand a little outside of what may be commanded
        pose = np.clip(pose, self._limits.lower_rad, self._limits.upper_rad)
        with self._limp_noticed():
            self._arm.command(pose)
        self._restart_from(pose, self._clock.now_s())
        self._blocked = ""
        self._holding = True

    def _watch(self) -> None:
        while not self._closing.wait(self._watchdog_s / 4):
            with self._lock:
                try:
                    self._hold_if_late()
                    self._read_if_idle()
                except RobotError as error:
                    # tried again at the next round; the caller hears of it at the next call
                    self._watchdog_error = error

    def _read_if_idle(self) -> None:
        if self._armed and self._clock.now_s() - self._measured_s > IDLE_READ_S:
            try:
                self._read()
            except BusError:
                self._measured_s = self._clock.now_s()  # whoever uses the arm next meets it too

    def _raise_watchdog_error(self) -> None:
        if self._watchdog_error is not None:
            error, self._watchdog_error = self._watchdog_error, None
            raise error
        if self._thread is not None and not self._thread.is_alive():
            raise CommandRefused("the guard's watchdog has ended (closed or crashed): make a new Guard")


def _checked(q_rad: F32) -> F32:
    """`q_rad` when it is finite float32 (6,), else CommandRefused."""
    if not isinstance(q_rad, np.ndarray) or q_rad.dtype != np.float32 or q_rad.shape != (NUM_JOINTS,):
        got = f"{q_rad.dtype} {q_rad.shape}" if isinstance(q_rad, np.ndarray) else type(q_rad).__name__
        raise CommandRefused(f"a joint target must be float32 ({NUM_JOINTS},) [rad], got {got}")
    if not np.isfinite(q_rad).all():
        joint = int(np.argmin(np.isfinite(q_rad)))
        raise CommandRefused(f"joint {JOINT_NAMES[joint]!r} was asked to go to {q_rad[joint]} rad")
    return q_rad


def _intersection(own: Limits, model: Limits | None) -> Limits:
    if model is None:
        return own
    lower = np.maximum(own.lower_rad, model.lower_rad)
    upper = np.minimum(own.upper_rad, model.upper_rad)
    if not (lower < upper).all():
        joint = int(np.argmax(~(lower < upper)))
        raise ValueError(
            f"joint {JOINT_NAMES[joint]!r} has no range left: the arm allows "
            f"[{own.lower_rad[joint]:.4f}, {own.upper_rad[joint]:.4f}] rad, the model "
            f"[{model.lower_rad[joint]:.4f}, {model.upper_rad[joint]:.4f}] rad; calibrate again"
        )
    return Limits(lower, upper)
