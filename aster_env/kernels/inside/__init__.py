"""What runs on the far side of the sandbox: the fork server and the small kernel.

These modules are run by path and import nothing of the rest of this package, so that a session finds neither its
tasks nor its graders in memory.
"""

UNUSABLE = 70
"""Exit status of a session whose cells broke what it needs to answer."""
