"""Known answers through our wrappers: the RFCs, NIST, and a selection of Project Wycheproof."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from tests.shared.secagg.house import RepeatableBytes

from silhouette_shared.errors import IntegrityError
from silhouette_shared.randomness import SecureSource
from silhouette_shared.secagg.keys import (
    AgreementKey,
    Identity,
    UntrustedError,
    derive,
    digest,
    seal,
    unseal,
    verify,
    verify_bytes,
)

WYCHEPROOF: dict[str, Any] = json.loads(
    (Path(__file__).parents[2] / "vectors" / "wycheproof.json").read_text(encoding="utf-8")
)


def by_case(cases: list[dict[str, Any]]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", cases, ids=lambda case: str(case["tcId"]))


def of(text: str) -> bytes:
    return bytes.fromhex(text)


def test_x25519_agrees_as_in_rfc_7748_section_6_1() -> None:
    bob = AgreementKey(of("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb"))
    alice = of("8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a")
    assert bob.public == of("de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f")
    assert bob.agree(alice) == of("4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742")


def test_x25519_multiplies_as_in_rfc_7748_section_5_2() -> None:
    scalar = of("a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4")
    point = of("e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c")
    product = of("c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552")
    assert AgreementKey(scalar).agree(point) == product
    scalar = point = bytes([9]) + bytes(31)
    for _ in range(1000):
        scalar, point = AgreementKey(scalar).agree(point), scalar
    assert scalar == of("684cf59ba83309552800ef566f2f4d3c1c3887c49360e3875f2eb94d99532c51")


@by_case(WYCHEPROOF["x25519"])
def test_x25519_agrees_or_refuses_as_wycheproof_says(case: dict[str, str]) -> None:
    """What gives a shared secret of zero is refused: Wycheproof accepts either, we do not."""
    key = AgreementKey(of(case["private"]))
    if of(case["shared"]) == bytes(32):
        with pytest.raises(UntrustedError, match="low order"):
            key.agree(of(case["public"]))
    else:
        assert key.agree(of(case["public"])) == of(case["shared"])


@pytest.mark.parametrize("peer", [b"", bytes(31), bytes(33), bytes([9]) * 31])
def test_a_public_key_of_another_length_is_refused(peer: bytes) -> None:
    with pytest.raises(UntrustedError):
        AgreementKey(bytes(32)).agree(peer)
    with pytest.raises(UntrustedError):
        verify_bytes(peer, bytes(64), b"")


@pytest.mark.parametrize(
    ("secret", "public", "message", "signature"),
    [
        (
            "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
            "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
            "",
            "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
        ),
        (
            "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
            "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
            "72",
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
        ),
    ],
)
def test_ed25519_is_the_one_of_rfc_8032_section_7_1(secret: str, public: str, message: str, signature: str) -> None:
    assert Identity(of(secret)).public == of(public)
    verify_bytes(of(public), of(signature), of(message))
    with pytest.raises(UntrustedError):
        verify_bytes(of(public), of(signature), of(message) + b"x")


@by_case(WYCHEPROOF["ed25519"]["tests"])
def test_ed25519_verifies_as_wycheproof_says(case: dict[str, Any]) -> None:
    public = of(WYCHEPROOF["ed25519"]["public"])
    if case["valid"]:
        verify_bytes(public, of(case["signature"]), of(case["message"]))
    else:
        with pytest.raises(UntrustedError, match="expected a valid Ed25519 signature"):
            verify_bytes(public, of(case["signature"]), of(case["message"]))


def test_a_signature_has_one_form_only() -> None:
    """S plus the group's order verifies in a careless implementation; so do missing and added bytes."""
    order = 2**252 + 27742317777372353535851937790883648493
    case = WYCHEPROOF["ed25519"]["tests"][0]
    public, signature = of(WYCHEPROOF["ed25519"]["public"]), of(case["signature"])
    again = int.from_bytes(signature[32:], "little") + order
    assert again < 1 << 256
    forms = [signature[:32] + again.to_bytes(32, "little"), signature[:-1], signature + b"\0", b"", signature[:32]]
    for form in forms:
        with pytest.raises(UntrustedError):
            verify_bytes(public, form, of(case["message"]))


def test_a_signature_covers_label_context_and_body_each_by_itself() -> None:
    identity = Identity.generate(SecureSource())
    signature = identity.sign(b"roll", b"context", b"body")
    verify(identity.public, signature, b"roll", b"context", b"body")
    for label, context, body in (
        (b"rol", b"lcontext", b"body"),
        (b"roll", b"contextb", b"ody"),
        (b"rollcontext", b"", b"body"),
        (b"roll", b"context", b"body\0"),
        (b"quorum", b"context", b"body"),
    ):
        with pytest.raises(UntrustedError):
            verify(identity.public, signature, label, context, body)
    with pytest.raises(UntrustedError):
        verify(Identity.generate(SecureSource()).public, signature, b"roll", b"context", b"body")


@by_case(WYCHEPROOF["hkdf_sha256"])
def test_hkdf_derives_as_rfc_5869_and_wycheproof_say(case: dict[str, Any]) -> None:
    derived = derive(of(case["secret"]), salt=of(case["salt"]), info=of(case["info"]), size=case["size"])
    assert derived == of(case["okm"])


@by_case(WYCHEPROOF["aes_256_gcm"])
def test_aes_gcm_seals_and_refuses_as_wycheproof_says(case: dict[str, str]) -> None:
    key, nonce, associated = of(case["key"]), of(case["nonce"]), of(case["associated"])
    sealed = of(case["ciphertext"]) + of(case["tag"])
    assert seal(key, of(case["message"]), associated, nonce=nonce) == sealed
    assert unseal(key, sealed, associated, nonce=nonce) == of(case["message"])
    for at in range(8 * len(sealed)):
        wrong = bytearray(sealed)
        wrong[at // 8] ^= 1 << at % 8
        with pytest.raises(UntrustedError):
            unseal(key, bytes(wrong), associated, nonce=nonce)
    for wrong_length in (sealed[:-1], sealed[:-4], sealed[:-16], sealed + b"\0", b"", sealed[:12]):
        with pytest.raises(UntrustedError):
            unseal(key, wrong_length, associated, nonce=nonce)
    for other in (associated + b"\0", b"other"):
        with pytest.raises(UntrustedError):
            unseal(key, sealed, other, nonce=nonce)


def test_aes_gcm_is_the_one_of_nist_test_cases_13_to_16() -> None:
    """McGrew and Viega, The Galois/Counter Mode of operation, appendix B: the cases with keys of 256 bits."""
    assert seal(bytes(32), b"", b"").hex() == "530f8afbc74536b9a963b4f1c4cb738b"
    assert seal(bytes(32), bytes(16), b"").hex() == "cea7403d4d606b6e074ec5d3baf39d18d0d1c8a799996bf0265b98b5d48ab919"
    key = of("feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308")
    nonce = of("cafebabefacedbaddecaf888")
    plain = of(
        "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72"
        "1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b391aafd255"
    )
    cipher = (
        "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa"
        "8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662898015ad"
    )
    assert seal(key, plain, b"", nonce=nonce).hex() == cipher + "b094dac5d93471bdec1a502270e3cc6c"
    associated = of("feedfacedeadbeeffeedfacedeadbeefabaddad2")
    sealed = seal(key, plain[:60], associated, nonce=nonce).hex()
    assert sealed == cipher[:120] + "76fc6ece0f4e1768cddf8853bb2d551b"


def test_a_digest_frames_its_parts() -> None:
    digests = {digest(b"a", b"b", b"c"), digest(b"a", b"bc"), digest(b"ab", b"c"), digest(b"a", b"b", b"c", b"")}
    assert len(digests) == 4


@pytest.mark.parametrize("make", [Identity, AgreementKey])
@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, pickle.dumps])
def test_a_key_cannot_be_copied_and_does_not_show_itself(make: Any, duplicate: Any) -> None:
    key = make(RepeatableBytes(0).bytes(32))
    with pytest.raises(TypeError, match="cannot be copied or pickled"):
        duplicate(key)
    assert RepeatableBytes(0).bytes(32).hex() not in repr(key)


def test_what_fails_a_check_is_an_integrity_error() -> None:
    assert issubclass(UntrustedError, IntegrityError)
