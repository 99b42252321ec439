"""Tests of mbls.posthoc."""
