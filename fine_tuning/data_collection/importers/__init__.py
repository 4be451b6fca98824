"""Reading foreign chats into the log: exports of other programs, data sets, chats among people.

`files` and `records` know how a file is laid out, and nothing of chats; each format is one small
module that makes `chats` of records; `table` lists them and finds a file's format; `importing` logs
what they read.
"""
