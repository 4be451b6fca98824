"""Documents (a handbook, say) turned into questions and answers that can be learned.

reading.py    a file, in a child process with bounds -> blocks (headings, paragraphs, lists, tables)
sections.py   blocks -> passages, each under its headings
facts.py      passages -> facts: an answer quoted from the text, and several wordings of a question for it
entailment.py whether a passage says what a question and its answer say
pairs.py      facts -> the pairs that are taught, and those that are held out to test it
"""
