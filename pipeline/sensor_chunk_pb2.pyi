from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Encoding(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ENCODING_UNSPECIFIED: _ClassVar[Encoding]
    ENCODING_I16: _ClassVar[Encoding]
    ENCODING_I24: _ClassVar[Encoding]
    ENCODING_I32: _ClassVar[Encoding]
    ENCODING_F32: _ClassVar[Encoding]

class Flag(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FLAG_NONE: _ClassVar[Flag]
    FLAG_OVERLOAD: _ClassVar[Flag]
    FLAG_CLOCK_UNSYNCED: _ClassVar[Flag]
    FLAG_END_OF_CAPTURE: _ClassVar[Flag]
ENCODING_UNSPECIFIED: Encoding
ENCODING_I16: Encoding
ENCODING_I24: Encoding
ENCODING_I32: Encoding
ENCODING_F32: Encoding
FLAG_NONE: Flag
FLAG_OVERLOAD: Flag
FLAG_CLOCK_UNSYNCED: Flag
FLAG_END_OF_CAPTURE: Flag

class SensorChunk(_message.Message):
    __slots__ = ("sensor_id", "sample_rate_hz", "start_ns", "seq", "epoch", "encoding", "samples", "scale", "offset", "unit", "flags")
    SENSOR_ID_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_RATE_HZ_FIELD_NUMBER: _ClassVar[int]
    START_NS_FIELD_NUMBER: _ClassVar[int]
    SEQ_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    ENCODING_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    SCALE_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    UNIT_FIELD_NUMBER: _ClassVar[int]
    FLAGS_FIELD_NUMBER: _ClassVar[int]
    sensor_id: str
    sample_rate_hz: float
    start_ns: int
    seq: int
    epoch: int
    encoding: Encoding
    samples: bytes
    scale: float
    offset: float
    unit: str
    flags: int
    def __init__(self, sensor_id: _Optional[str] = ..., sample_rate_hz: _Optional[float] = ..., start_ns: _Optional[int] = ..., seq: _Optional[int] = ..., epoch: _Optional[int] = ..., encoding: _Optional[_Union[Encoding, str]] = ..., samples: _Optional[bytes] = ..., scale: _Optional[float] = ..., offset: _Optional[float] = ..., unit: _Optional[str] = ..., flags: _Optional[int] = ...) -> None: ...
