"""What a partner allows: the ledger of privacy spent, its limits and its witnesses.

Import the modules themselves: `receipt` is for code that calculates and must not reach a database through here.
"""
