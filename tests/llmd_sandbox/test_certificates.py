from __future__ import annotations

import ipaddress

from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from llmd_sandbox.certificates import self_signed


def test_key_and_certificate_belong_together_and_name_the_address() -> None:
    key, chain = self_signed("somebody", "127.9.0.1")
    certificate = x509.load_pem_x509_certificate(chain)
    assert certificate.public_key() == load_pem_private_key(key, None).public_key()
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.IPAddress) == [ipaddress.ip_address("127.9.0.1")]
