"""Study files that come with Murk."""
