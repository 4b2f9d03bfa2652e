"""Research on the web for a mission whose text asks for it.

Shallow research is a question that is answered at once. Deep research is a job of many minutes that is paid for: its
intent is in the ledger before it is submitted, its result before anything is made of it, and meanwhile its run waits.
"""

from __future__ import annotations
