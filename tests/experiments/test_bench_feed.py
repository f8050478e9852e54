import json

import pytest

from experiments.bench import feed


@pytest.mark.slow
def test_bench_feed_smoke(tmp_path):
    results = feed.main(feed.Config.smoke(scratch=str(tmp_path / "images"), out=str(tmp_path / "feed.json")))
    assert results["resumed_equal"]
    assert results == json.loads((tmp_path / "feed.json").read_text())
    assert all(found["peak_mib"] >= found["peak_anonymous_mib"] > 0 for found in results["works"].values())
    assert [it.name for it in (tmp_path / "images").iterdir()] == ["4000x16x16x3.npy"]
