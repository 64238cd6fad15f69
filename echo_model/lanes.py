"""Arithmetic written in Python in, machine code for this processor out.

Sixteen float32 side by side ("lanes") are LLVM's <16 x float>: AVX-512, two AVX2 or four NEON
registers. Loops and branches of a kernel run here, once, and leave LLVM instructions behind; those
run without Python's lock. No value is reordered, so that a result depends on its own inputs only.
Nothing is checked: pointers and counts are the caller's affair. Compiled in memory, which takes
30-60 ms a kernel and needs no folder to write to.
"""

import ctypes
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, Self

from llvmlite import binding, ir

LANES = 16
# sqrt(1/2) as float32.
ROOT_HALF_BITS = 0x3F3504F3
_F32, _I16, _I32, _I64 = ir.FloatType(), ir.IntType(16), ir.IntType(32), ir.IntType(64)
_LANES = ir.VectorType(_F32, LANES)
_WHOLE = ir.VectorType(_I32, LANES)
_HALF = ir.VectorType(_I16, LANES)

Build = Callable[..., None]


@dataclass(frozen=True, slots=True)
class Value:
    """A whole number, or lanes; Python's operators write the instruction."""

    builder: Any
    raw: Any

    def _with(self, raw: Any) -> Self:
        return type(self)(self.builder, raw)

    def _both(self, other: "Value | float", whole: str, lanes: str) -> "Value":
        name = whole if self.raw.type == _I64 else lanes
        return self._with(getattr(self.builder, name)(self.raw, self.like(other).raw))

    def like(self, other: "Value | float") -> "Value":
        """A number as a constant of this value's type."""
        if isinstance(other, Value):
            return other
        if self.raw.type == _I64:
            return self._with(ir.Constant(_I64, int(other)))
        return self._with(ir.Constant(self.raw.type, [_single(other)] * self.raw.type.count))

    def __add__(self, other: "Value | float") -> "Value":
        return self._both(other, "add", "fadd")

    def __sub__(self, other: "Value | float") -> "Value":
        return self._both(other, "sub", "fsub")

    def __mul__(self, other: "Value | float") -> "Value":
        return self._both(other, "mul", "fmul")

    def smaller(self, other: "Value | float") -> "Value":
        """The smaller of two whole numbers."""
        two = self.like(other).raw
        return self._with(
            self.builder.select(self.builder.icmp_signed("<", self.raw, two), self.raw, two)
        )

    def larger(self, other: "Value | float") -> "Value":
        """The larger, lane by lane."""
        two = self.like(other).raw
        return self._with(
            self.builder.select(self.builder.fcmp_ordered(">", self.raw, two), self.raw, two)
        )

    def times_plus(self, factor: "Value | float", summand: "Value | float") -> "Value":
        """A product and a sum, rounded once where the processor can (40 x slower to insist)."""
        return self._named("fmuladd", factor, summand)

    def floor(self) -> "Value":
        """Whole numbers below."""
        return self._named("floor")

    def root(self) -> "Value":
        """Square roots."""
        return self._named("sqrt")

    def inverse(self) -> "Value":
        """One over each lane."""
        return self._with(self.builder.fdiv(self.like(1.0).raw, self.raw))

    def power_of_two(self) -> "Value":
        """2 to the power of whole lanes -126..127, by writing the exponent's bits."""
        exponent = self.builder.add(self.builder.fptosi(self.raw, _WHOLE), _whole(127))
        return self._with(self.builder.bitcast(self.builder.shl(exponent, _whole(23)), _LANES))

    def power_and_rest(self) -> tuple["Value", "Value"]:
        """Of x > 0 the e and the r, 0.7071..1.4142, with x = 2^e r."""
        build, bits = self.builder, self.builder.bitcast(self.raw, _WHOLE)
        power = build.ashr(build.sub(bits, _whole(ROOT_HALF_BITS)), _whole(23))
        rest = build.bitcast(build.sub(bits, build.shl(power, _whole(23))), _LANES)
        return self._with(build.sitofp(power, _LANES)), self._with(rest)

    def lanes(self) -> "Value":
        """A whole number in all lanes."""
        build = self.builder
        one = build.insert_element(
            ir.Constant(_LANES, ir.Undefined), build.sitofp(self.raw, _F32), _I32(0)
        )
        return self._with(_picked(build, one, one, [0] * LANES))

    def total(self) -> "Value":
        """Sum of the lanes, in all lanes."""
        rest = self
        while rest.raw.type.count > 1:
            rest = rest.folded()
        return self._with(_picked(self.builder, rest.raw, rest.raw, [0] * LANES))

    def folded(self) -> "Value":
        """Half as many lanes: upper half added to the lower."""
        count = self.raw.type.count // 2
        lower = _picked(self.builder, self.raw, self.raw, range(count))
        upper = _picked(self.builder, self.raw, self.raw, range(count, 2 * count))
        return self._with(self.builder.fadd(lower, upper))

    def _named(self, name: str, *others: "Value | float") -> "Value":
        kind = ir.FunctionType(_LANES, [_LANES] * (1 + len(others)))
        full = f"llvm.{name}.v{LANES}f32"
        module = self.builder.module
        function = module.globals.get(full) or ir.Function(module, kind, full)
        arguments = [self.raw, *(self.like(other).raw for other in others)]
        return self._with(self.builder.call(function, arguments))


def totals(w: Value, x: Value, y: Value, z: Value) -> Value:
    """The sums of four values' lanes, side by side: 13 instructions, one by one it takes 32."""
    groups = range(0, LANES, 4)
    lower = [i for g in groups for i in (g, g + 16, g + 1, g + 17)]
    upper = [i for g in groups for i in (g + 2, g + 18, g + 3, g + 19)]
    left = [i for g in groups for i in (g, g + 1, g + 16, g + 17)]
    right = [i for g in groups for i in (g + 2, g + 3, g + 18, g + 19)]

    def woven(one: Value, two: Value, first: Sequence[int], second: Sequence[int]) -> Value:
        a = _picked(w.builder, one.raw, two.raw, first)
        return Value(w.builder, w.builder.fadd(a, _picked(w.builder, one.raw, two.raw, second)))

    pairs = woven(w, x, lower, upper), woven(y, z, lower, upper)
    return woven(*pairs, left, right).folded().folded()


@dataclass(frozen=True, slots=True)
class Array:
    """Values in memory, float32 or bfloat16; always float32 once loaded."""

    builder: Any
    pointer: Any
    half: bool = False

    def load(self, place: Value) -> Value:
        """16 values from a place on."""
        return Value(self.builder, self._load(place, _HALF if self.half else _LANES))

    def spread(self, place: Value) -> Value:
        """One float32 in all lanes."""
        one = ir.VectorType(_F32, 1)
        return Value(
            self.builder,
            _picked(self.builder, (x := self._load(place, one)), x, [0] * LANES),
        )

    def pairs(self, place: Value) -> tuple[Value, Value]:
        """Firsts and seconds of 16 pairs from a place on."""
        x, y = self.load(place), self.load(place + LANES)
        even, odd = range(0, 2 * LANES, 2), range(1, 2 * LANES, 2)
        first = _picked(self.builder, x.raw, y.raw, even)
        return Value(self.builder, first), Value(
            self.builder, _picked(self.builder, x.raw, y.raw, odd)
        )

    def store(self, place: Value, value: Value) -> None:
        """Write lanes; bfloat16 is rounded to nearest even."""
        raw, build = value.raw, self.builder
        if self.half:
            bits = build.bitcast(raw, _WHOLE)
            odd = build.and_(build.lshr(bits, _whole(16)), _whole(1))
            bits = build.add(bits, build.add(odd, _whole(0x7FFF)))
            raw = build.trunc(build.lshr(bits, _whole(16)), _HALF)
        build.store(raw, self._at(place, raw.type), align=2 if self.half else 4)

    def _load(self, place: Value, kind: Any) -> Any:
        build = self.builder
        found = build.load(self._at(place, kind), align=2 if self.half else 4)
        if not self.half:
            return found
        return build.bitcast(build.shl(build.zext(found, _WHOLE), _whole(16)), _LANES)

    def _at(self, place: Value, kind: Any) -> Any:
        start = self.builder.gep(self.pointer, [place.raw])
        return self.builder.bitcast(start, kind.as_pointer())


class Variable:
    """A value that changes in a loop."""

    def __init__(self, first: Value) -> None:
        self._builder = first.builder
        with self._builder.goto_entry_block():
            self._slot = self._builder.alloca(first.raw.type)
        self.set(first)

    def get(self) -> Value:
        """What it is now."""
        return Value(self._builder, self._builder.load(self._slot))

    def set(self, value: Value) -> None:
        """What it is from now on."""
        self._builder.store(value.raw, self._slot)


@contextmanager
def loop(count: Value, step: int = 1) -> Iterator[Value]:
    """Once for 0, step, 2 step ... below a count of at least 1."""
    build, index = count.builder, Variable(count.like(0))
    body, after = build.append_basic_block(), build.append_basic_block()
    build.branch(body)
    build.position_at_end(body)
    yield index.get()
    following = index.get() + step
    index.set(following)
    build.cbranch(build.icmp_signed("<", following.raw, count.raw), body, after)
    build.position_at_end(after)


def constant(builder: Any, number: float) -> Value:
    """A number in all lanes."""
    return Value(builder, ir.Constant(_LANES, [_single(number)] * LANES))


class Kernel:
    """Machine code to be called with addresses and whole numbers.

    Args:
        build: Writes the kernel, given an `Array` per address and a `Value` per number.
        halves: Of each address, whether bfloat16 is there.
        numbers: Whole numbers after the addresses.
    """

    def __init__(self, build: Build, halves: Sequence[bool], numbers: int) -> None:
        module, machine = ir.Module(), _machine()
        pointers = [(_I16 if half else _F32).as_pointer() for half in halves]
        kind = ir.FunctionType(ir.VoidType(), [*pointers, *[_I64] * numbers])
        function = ir.Function(module, kind, "kernel")
        builder = ir.IRBuilder(function.append_basic_block())
        arrays = [Array(builder, p, h) for p, h in zip(function.args, halves, strict=False)]
        build(*arrays, *(Value(builder, n) for n in function.args[len(halves) :]))
        builder.ret_void()
        parsed = binding.parse_assembly(str(module))
        tuning = binding.create_pipeline_tuning_options(speed_level=3)
        passes = binding.create_pass_builder(machine, tuning)
        passes.getModulePassManager().run(parsed, passes)
        self._engine = binding.create_mcjit_compiler(parsed, machine)  # keeps the code alive
        self._engine.finalize_object()
        arguments = [ctypes.c_void_p] * len(halves) + [ctypes.c_int64] * numbers
        address = self._engine.get_function_address("kernel")
        self._call = ctypes.CFUNCTYPE(None, *arguments)(address)

    def __call__(self, *arguments: int) -> None:
        """Run; other Python threads go on meanwhile."""
        self._call(*arguments)


@cache
def _target() -> Any:
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    return binding.Target.from_default_triple()


def _machine() -> Any:
    """This processor, with all it has."""
    return _target().create_target_machine(
        cpu=binding.get_host_cpu_name(), features=binding.get_host_cpu_features().flatten(), opt=3
    )


def _single(number: float) -> float:
    """As float32 has it: LLVM refuses constants that it would have to round."""
    return ctypes.c_float(number).value


def _whole(number: int) -> Any:
    return ir.Constant(_WHOLE, [number] * LANES)


def _picked(builder: Any, x: Any, y: Any, places: Sequence[int]) -> Any:
    mask = ir.Constant(ir.VectorType(_I32, len(places)), list(places))
    return builder.shuffle_vector(x, y, mask)
