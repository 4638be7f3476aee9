"""The sandbox's trails: what the emulated clouds were asked, in the form of each cloud's own audit export.

The emulators write no audit log. The fault proxy in front of each sees every request that reaches it, so it keeps a
record (`watching`, `recording`), and a small part of the sandbox delivers the records into a bucket beside the site's
(`delivery`): as CloudTrail's log files with their signed digests, as a Cloud Logging sink's hourly files, as Azure's
append blobs of resource logs. They are the sandbox's trails, not a cloud's, and every event says so.
"""
