"""Parts of pages: each module draws one part, most of them for several pages."""
