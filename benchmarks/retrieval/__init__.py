"""Retrieval, side by side: lexical, dense and the service (`aster bench retrieval`)."""
