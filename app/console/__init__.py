"""The web pages: server-rendered, in Chinese and English, usable with the keyboard and without scripts.

They call the services that the HTTP endpoints call and add no rule of their own. `route` guards each request, `pages`
renders, `plots` and `drawing` draw; the other modules hold the pages of one subject each.
"""
