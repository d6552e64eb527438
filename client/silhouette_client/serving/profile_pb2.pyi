from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class GetProfileRequest(_message.Message):
    __slots__ = ("user",)
    USER_FIELD_NUMBER: _ClassVar[int]
    user: str
    def __init__(self, user: _Optional[str] = ...) -> None: ...

class Trait(_message.Message):
    __slots__ = ("value", "confidence")
    VALUE_FIELD_NUMBER: _ClassVar[int]
    CONFIDENCE_FIELD_NUMBER: _ClassVar[int]
    value: str
    confidence: float
    def __init__(self, value: _Optional[str] = ..., confidence: _Optional[float] = ...) -> None: ...

class Profile(_message.Message):
    __slots__ = ("model", "weights", "traits", "tags", "vector", "tastes")
    class WeightsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    class TraitsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Trait
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Trait, _Mapping]] = ...) -> None: ...
    MODEL_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    TRAITS_FIELD_NUMBER: _ClassVar[int]
    TAGS_FIELD_NUMBER: _ClassVar[int]
    VECTOR_FIELD_NUMBER: _ClassVar[int]
    TASTES_FIELD_NUMBER: _ClassVar[int]
    model: str
    weights: _containers.ScalarMap[str, float]
    traits: _containers.MessageMap[str, Trait]
    tags: _containers.RepeatedScalarFieldContainer[str]
    vector: _containers.RepeatedScalarFieldContainer[float]
    tastes: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, model: _Optional[str] = ..., weights: _Optional[_Mapping[str, float]] = ..., traits: _Optional[_Mapping[str, Trait]] = ..., tags: _Optional[_Iterable[str]] = ..., vector: _Optional[_Iterable[float]] = ..., tastes: _Optional[_Iterable[float]] = ...) -> None: ...

class BatchGetProfilesRequest(_message.Message):
    __slots__ = ("users",)
    USERS_FIELD_NUMBER: _ClassVar[int]
    users: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, users: _Optional[_Iterable[str]] = ...) -> None: ...

class BatchGetProfilesResponse(_message.Message):
    __slots__ = ("entries",)
    class Entry(_message.Message):
        __slots__ = ("profile",)
        PROFILE_FIELD_NUMBER: _ClassVar[int]
        profile: Profile
        def __init__(self, profile: _Optional[_Union[Profile, _Mapping]] = ...) -> None: ...
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    entries: _containers.RepeatedCompositeFieldContainer[BatchGetProfilesResponse.Entry]
    def __init__(self, entries: _Optional[_Iterable[_Union[BatchGetProfilesResponse.Entry, _Mapping]]] = ...) -> None: ...

class RecommendRequest(_message.Message):
    __slots__ = ("user", "count", "without")
    USER_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    WITHOUT_FIELD_NUMBER: _ClassVar[int]
    user: str
    count: int
    without: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, user: _Optional[str] = ..., count: _Optional[int] = ..., without: _Optional[_Iterable[str]] = ...) -> None: ...

class Recommendation(_message.Message):
    __slots__ = ("item", "title", "score")
    ITEM_FIELD_NUMBER: _ClassVar[int]
    TITLE_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    item: str
    title: str
    score: float
    def __init__(self, item: _Optional[str] = ..., title: _Optional[str] = ..., score: _Optional[float] = ...) -> None: ...

class RecommendResponse(_message.Message):
    __slots__ = ("model", "items")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    model: str
    items: _containers.RepeatedCompositeFieldContainer[Recommendation]
    def __init__(self, model: _Optional[str] = ..., items: _Optional[_Iterable[_Union[Recommendation, _Mapping]]] = ...) -> None: ...

class ExplainRequest(_message.Message):
    __slots__ = ("user",)
    USER_FIELD_NUMBER: _ClassVar[int]
    user: str
    def __init__(self, user: _Optional[str] = ...) -> None: ...

class ExplainResponse(_message.Message):
    __slots__ = ("model", "parts", "tags")
    class Part(_message.Message):
        __slots__ = ("dimension", "share", "meaning")
        DIMENSION_FIELD_NUMBER: _ClassVar[int]
        SHARE_FIELD_NUMBER: _ClassVar[int]
        MEANING_FIELD_NUMBER: _ClassVar[int]
        dimension: str
        share: float
        meaning: str
        def __init__(self, dimension: _Optional[str] = ..., share: _Optional[float] = ..., meaning: _Optional[str] = ...) -> None: ...
    MODEL_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    TAGS_FIELD_NUMBER: _ClassVar[int]
    model: str
    parts: _containers.RepeatedCompositeFieldContainer[ExplainResponse.Part]
    tags: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, model: _Optional[str] = ..., parts: _Optional[_Iterable[_Union[ExplainResponse.Part, _Mapping]]] = ..., tags: _Optional[_Iterable[str]] = ...) -> None: ...

class SimilarSegmentsRequest(_message.Message):
    __slots__ = ("user", "count")
    USER_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    user: str
    count: int
    def __init__(self, user: _Optional[str] = ..., count: _Optional[int] = ...) -> None: ...

class SimilarSegmentsResponse(_message.Message):
    __slots__ = ("segments",)
    class Segment(_message.Message):
        __slots__ = ("name", "similarity")
        NAME_FIELD_NUMBER: _ClassVar[int]
        SIMILARITY_FIELD_NUMBER: _ClassVar[int]
        name: str
        similarity: float
        def __init__(self, name: _Optional[str] = ..., similarity: _Optional[float] = ...) -> None: ...
    SEGMENTS_FIELD_NUMBER: _ClassVar[int]
    segments: _containers.RepeatedCompositeFieldContainer[SimilarSegmentsResponse.Segment]
    def __init__(self, segments: _Optional[_Iterable[_Union[SimilarSegmentsResponse.Segment, _Mapping]]] = ...) -> None: ...

class Event(_message.Message):
    __slots__ = ("user", "item", "behaviour", "timestamp", "value", "id", "text")
    USER_FIELD_NUMBER: _ClassVar[int]
    ITEM_FIELD_NUMBER: _ClassVar[int]
    BEHAVIOUR_FIELD_NUMBER: _ClassVar[int]
    TIMESTAMP_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    user: str
    item: str
    behaviour: str
    timestamp: int
    value: float
    id: str
    text: str
    def __init__(self, user: _Optional[str] = ..., item: _Optional[str] = ..., behaviour: _Optional[str] = ..., timestamp: _Optional[int] = ..., value: _Optional[float] = ..., id: _Optional[str] = ..., text: _Optional[str] = ...) -> None: ...

class PushEventsRequest(_message.Message):
    __slots__ = ("events",)
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    events: _containers.RepeatedCompositeFieldContainer[Event]
    def __init__(self, events: _Optional[_Iterable[_Union[Event, _Mapping]]] = ...) -> None: ...

class PushEventsResponse(_message.Message):
    __slots__ = ("accepted", "left_out", "repeated", "unknown_items", "without_consent", "profiles")
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    LEFT_OUT_FIELD_NUMBER: _ClassVar[int]
    REPEATED_FIELD_NUMBER: _ClassVar[int]
    UNKNOWN_ITEMS_FIELD_NUMBER: _ClassVar[int]
    WITHOUT_CONSENT_FIELD_NUMBER: _ClassVar[int]
    PROFILES_FIELD_NUMBER: _ClassVar[int]
    accepted: int
    left_out: int
    repeated: int
    unknown_items: int
    without_consent: int
    profiles: int
    def __init__(self, accepted: _Optional[int] = ..., left_out: _Optional[int] = ..., repeated: _Optional[int] = ..., unknown_items: _Optional[int] = ..., without_consent: _Optional[int] = ..., profiles: _Optional[int] = ...) -> None: ...

class EraseRequest(_message.Message):
    __slots__ = ("user",)
    USER_FIELD_NUMBER: _ClassVar[int]
    user: str
    def __init__(self, user: _Optional[str] = ...) -> None: ...

class EraseResponse(_message.Message):
    __slots__ = ("fields", "data_key")
    FIELDS_FIELD_NUMBER: _ClassVar[int]
    DATA_KEY_FIELD_NUMBER: _ClassVar[int]
    fields: _containers.RepeatedScalarFieldContainer[str]
    data_key: bool
    def __init__(self, fields: _Optional[_Iterable[str]] = ..., data_key: _Optional[bool] = ...) -> None: ...

class VerifyRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class VerifyResponse(_message.Message):
    __slots__ = ("people", "fields", "exclusions", "audit_entries")
    PEOPLE_FIELD_NUMBER: _ClassVar[int]
    FIELDS_FIELD_NUMBER: _ClassVar[int]
    EXCLUSIONS_FIELD_NUMBER: _ClassVar[int]
    AUDIT_ENTRIES_FIELD_NUMBER: _ClassVar[int]
    people: int
    fields: int
    exclusions: int
    audit_entries: int
    def __init__(self, people: _Optional[int] = ..., fields: _Optional[int] = ..., exclusions: _Optional[int] = ..., audit_entries: _Optional[int] = ...) -> None: ...
