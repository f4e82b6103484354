"""What somebody has looked at, of which the policy needs no table.

A setting that the policy does not know is left out, and a hook of any event runs in the container. So a new name does
no harm. But it can be one that people want: then it gets a row in bridge/policy/project_policy.py. If not, it gets its
place here.
"""

from __future__ import annotations

NEWEST = (2, 1, 332)
"""The newest version whose lists were looked at. Of older ones, nothing is gone: what they lack is new."""

EVENTS = frozenset({
    "ConfigChange", "CwdChanged", "DirectoryAdded", "Elicitation", "ElicitationResult", "FileChanged",
    "InstructionsLoaded", "MessageDisplay", "Notification", "PermissionDenied", "PermissionRequest", "PostCompact",
    "PostModelSwitch", "PostToolBatch", "PostToolUse", "PostToolUseFailure", "PreCompact", "PreModelSwitch",
    "PreSkillShellCommand", "PreToolUse", "SessionEnd", "SessionStart", "Setup", "Stop", "StopFailure",
    "SubagentStart", "SubagentStop", "TaskCompleted", "TaskCreated", "TeammateIdle", "UserPromptExpansion",
    "UserPromptSubmit", "WorktreeCreate", "WorktreeRemove",
})  # fmt: skip
"""Events of hooks."""

SETTINGS = frozenset({
    "additionalDirectoryConfigRoots", "additionalMarketplaces", "advisorModel", "agent", "agentPushNotifEnabled",
    "allowAllClaudeAiMcps", "allowClaudeInChromeWithManagedMcp", "allowManagedHooksOnly",
    "allowManagedMcpServersOnly", "allowManagedPermissionRulesOnly", "allowNestedModelAccessUnderForceLogin",
    "allowedChannelPlugins", "allowedHttpHookUrls", "allowedMarketplaces", "allowedMcpServers", "allowedProviders",
    "apiKeyHelper", "appendPlugins", "askUserQuestionTimeout", "attribution", "attributionProject",
    "attributionProjectPolicy", "autoCompactEnabled", "autoCompactOfferAnswer", "autoCompactRaisedForLoad",
    "autoCompactWindow", "autoContinueAtUsageLimit", "autoDreamEnabled", "autoMemoryDirectory", "autoMemoryEnabled",
    "autoScrollEnabled", "autoUpdatesChannel", "autoUploadSessions", "availableModels", "availableModelsMatch",
    "awaySummaryEnabled", "awsAuthRefresh", "awsCredentialExport", "bashEditDiffEnabled", "bashOutputMaxChars",
    "blockedMarketplaces", "breakReminder", "channelsEnabled", "claudeMd", "claudeMdExcludes",
    "clawdFileProgressEnabled", "companyAnnouncements", "crossSessionInbound", "daemonColdStart", "defaultShell",
    "deniedMcpServers", "deniedModels", "desktopMcpServersListScope", "desktopSessionCleanupPeriodDays",
    "dialogExpiry", "disableAgentView", "disableArtifact", "disableAutoMode", "disableBundledSkills",
    "disableClaudeAiConnectors", "disableCommandPluginSources", "disableRemoteControl", "disableReplyCheck",
    "disableSideloadFlags", "disableSkillShellExecution", "disableWindowsBashCommandSplit", "disableWorkflows",
    "doneMeansMerged", "downloadsMirrorUrl", "editorMode", "emojiCompletionEnabled", "enableArtifact",
    "enableWorkflows", "enabledPlugins", "enforceAvailableModels", "env", "extraKnownMarketplaces", "fallbackModel",
    "fastModePerSessionOptIn", "feedbackDrafts", "feedbackSurveyRate", "fileCheckpointingEnabled", "fileSuggestion",
    "footerLinksRegexes", "forceLoginGatewayUrl", "forceLoginMethod", "forceLoginOrgUUID",
    "forceRemoteSettingsRefresh", "gatewayInternalNetworks", "gcpAuthRefresh", "httpHookAllowedEnvVars",
    "idleCompaction", "includeGitInstructions", "inputNeededNotifEnabled", "isolatePeerMachines", "keybindingFlavor",
    "managedMcpServers", "managedSourcesBehavior", "maxEffortLevel", "maxProseWidth", "minimumVersion",
    "modelCatalogPublicKey", "modelCatalogUrl", "modelOverrides", "modelPicker", "modelPricing", "modelProposedGoals",
    "modelSettings", "otelHeadersHelper", "parentSettingsBehavior", "plansDirectory", "pluginConfigs",
    "pluginSuggestionMarketplaces", "pluginTrustMessage", "policyHelper", "policyHelpers", "prUrlTemplate",
    "precomputeArmTokens", "precomputeCompactionEnabled", "preferredNotifChannel", "prefersReducedMotion",
    "prependPlugins", "processWrapper", "promptCacheTtl", "promptSuggestionEnabled", "proxyAuthHelper", "quietHours",
    "remote", "remoteControl", "remoteControlAtStartup", "remoteMessageReceipts", "remoteTools",
    "requiredMaximumVersion", "requiredMinimumVersion", "respectGitignore", "respondToBashCommands",
    "responseComparisonEnabled", "sandbox", "showClearContextOnPlanAccept", "showMessageTimestamps",
    "showTurnDuration", "skillListingBudgetFraction", "skillListingMaxDescChars", "skillOverrides",
    "skipDangerousModePermissionPrompt", "skipWebFetchPreflight", "skipWorkflowUsageWarning", "spellcheck",
    "spinnerTipsOverride", "spinnerVerbs", "sshConfigs", "sshHostCommands", "statusLine", "strictKnownMarketplaces",
    "strictPluginOnlyCustomization", "subagentPromptCacheTtl", "subagentStatusLine", "switchModelsOnFlag",
    "syncClaudeAiPlugins", "syncClaudeAiSkills", "syntaxHighlightingDisabled", "taskOutputMaxChars", "teammateMode",
    "terminalProgressBarEnabled", "terminalTitleFromRename", "theme", "timeFormat", "timeZone", "todoFeatureEnabled",
    "totalTokensReminder", "totalTokensReminderAfterUserTurn", "totalTokensReminderBudget", "tui", "ultracode",
    "verbose", "viewMode", "vimInsertModeRemaps", "voice", "wheelScrollAccelerationEnabled",
    "workflowKeywordTriggerEnabled", "workflowSizeGuideline", "worktree", "wslInheritsWindowsSettings",
})  # fmt: skip
"""Settings that a project cannot make."""
