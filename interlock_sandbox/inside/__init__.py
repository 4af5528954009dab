"""What runs on the sandbox's side: the zygote and its single-use children.

These modules are loaded by a freshly started interpreter that sees the standard library only, so they import
nothing but it, one another, and the few modules of the parent package that describe the shared channel.
"""
