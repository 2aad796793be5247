"""The truth of a study: one file of events, one writer."""

from halving.journal.journal import FILE, Journal, decode, encode, read, replay

__all__ = ["FILE", "Journal", "decode", "encode", "read", "replay"]
