from llmd_sandbox.kubelet.addresses import PodAddresses
from llmd_sandbox.site import Site


def test_addresses_are_unique_and_not_reused_at_once() -> None:
    addresses = PodAddresses(Site("s", 50))
    first, second = addresses.take(), addresses.take()
    assert first != second
    addresses.free(first)
    assert addresses.take() not in (first, second)


def test_a_pod_keeps_its_address_if_it_can() -> None:
    addresses = PodAddresses(Site("s", 50))
    assert addresses.take("127.50.16.9") == "127.50.16.9"
    assert addresses.take("127.50.16.9") != "127.50.16.9"
    assert addresses.take("127.51.16.9").startswith("127.50.")


def test_a_kept_address_is_not_handed_out_in_turn() -> None:
    site = Site("s", 50)
    addresses = PodAddresses(site)
    addresses.take(site.pod_ip(1))
    assert [addresses.take(), addresses.take()] == [site.pod_ip(0), site.pod_ip(2)]
