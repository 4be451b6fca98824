window.YTD.direct_messages.part0 = [
  {
    "dmConversation": {
      "conversationId": "robin-22",
      "messages": [
        {
          "messageCreate": {
            "recipientId": "robin",
            "senderId": "22",
            "id": "03",
            "createdAt": "2024-01-15T10:03:00.000Z",
            "text": "Perch.",
            "mediaUrls": [],
            "urls": [],
            "reactions": []
          }
        },
        {
          "messageCreate": {
            "recipientId": "robin",
            "senderId": "robin",
            "id": "02",
            "createdAt": "2024-01-15T10:02:00.000Z",
            "text": "Which fish live there?",
            "mediaUrls": [],
            "urls": [],
            "reactions": []
          }
        },
        {
          "messageCreate": {
            "recipientId": "robin",
            "senderId": "22",
            "id": "01",
            "createdAt": "2024-01-15T10:01:00.000Z",
            "text": "Forty metres.",
            "mediaUrls": [],
            "urls": [],
            "reactions": []
          }
        },
        {
          "messageCreate": {
            "recipientId": "robin",
            "senderId": "robin",
            "id": "00",
            "createdAt": "2024-01-15T10:00:00.000Z",
            "text": "How deep is the lake?",
            "mediaUrls": [],
            "urls": [],
            "reactions": []
          }
        }
      ]
    }
  },
  {
    "dmConversation": {
      "conversationId": "22-33",
      "messages": [
        {
          "messageCreate": {
            "recipientId": "robin",
            "senderId": "22",
            "id": "05",
            "createdAt": "2024-01-15T10:05:00.000Z",
            "text": "Two.",
            "mediaUrls": [],
            "urls": [],
            "reactions": []
          }
        },
        {
          "messageCreate": {
            "senderId": "33",
            "createdAt": "2024-01-15T10:04:30.000Z",
            "text": [
              "?"
            ]
          }
        },
        {
          "messageCreate": {
            "recipientId": "33",
            "senderId": "33",
            "id": "04",
            "createdAt": "2024-01-15T10:04:00.000Z",
            "text": "And the pond?",
            "mediaUrls": [],
            "urls": [],
            "reactions": []
          }
        }
      ]
    }
  }
]
